//! Tests of describing the rows of a step: what the case table does not vary.

use crate::common::host;
use lowbit::ops::{
    BindError, PlanError, PositionsArgs, PositionsPlan, PositionsSpec, RecordError, Role, SubBuffer,
};
use pollster::block_on;

/// A prompt of five tokens and two decoded tokens, in one submission: the number of tokens stays on the
/// device.
#[test]
fn steps_follow_each_other() {
    let Some(host) = host() else { return };
    let all = PositionsSpec::new(8);
    let near = PositionsSpec::new(8).with_window(3).without_advance();
    let state = host.zeros(4).unwrap();
    let [rows, windowed] = [40, 40].map(|words| host.zeros(4 * words).unwrap());
    let bind = |spec: &PositionsSpec, rows| {
        let plan = block_on(PositionsPlan::new(host.kernels(), spec)).unwrap();
        block_on(plan.bind(PositionsArgs { state: (&state).into(), output: rows })).unwrap()
    };
    let (near, all) = (bind(&near, (&windowed).into()), bind(&all, (&rows).into()));
    host.submit(|pass| {
        for m in [5, 1, 1] {
            near.record(pass, m).unwrap();
            all.record(pass, m).unwrap();
        }
        assert_eq!(all.record(pass, 9), Err(RecordError::MTooLarge { m: 9, max_m: 8 }));
    })
    .unwrap();
    assert_eq!(host.read(&state, 0, 1).unwrap(), [7]);
    let rows = host.read(&rows, 0, 12).unwrap();
    assert_eq!(rows, [6, 6, 0, 7, 1, 1, 0, 2, 2, 2, 0, 3]);
    let windowed = host.read(&windowed, 0, 40).unwrap();
    assert_eq!(windowed[32..37], [6, 1, 2, 3, 4]);
    assert_eq!(windowed[..4], [6, 6, 4, 7]);
    assert_eq!(windowed[16..20], [4, 4, 2, 5]);
}

#[test]
fn what_does_not_fit_is_refused() {
    let Some(host) = host() else { return };
    let many = PositionsSpec::new(1 << 20).check();
    assert!(matches!(many, Err(PlanError::TooLarge { name: "max_m", .. })));
    let plan = block_on(PositionsPlan::new(host.kernels(), &PositionsSpec::new(4))).unwrap();
    let [state, rows] = [16, 80].map(|bytes| host.zeros(bytes).unwrap());
    let refuse = |state: SubBuffer<'_>, output: SubBuffer<'_>| {
        block_on(plan.bind(PositionsArgs { state, output })).map(|_| ()).unwrap_err()
    };
    let short = refuse((&state).into(), (&state).into());
    assert!(matches!(short, BindError::TooSmall { role: Role::Output, .. }), "{short:?}");
    let late = SubBuffer { buffer: &state, offset: state.size() };
    let late = refuse(late, (&rows).into());
    assert!(matches!(late, BindError::TooSmall { role: Role::Positions, .. }));
    let odd = refuse(SubBuffer { buffer: &state, offset: 2 }, (&rows).into());
    assert!(matches!(odd, BindError::Misaligned { role: Role::Positions, .. }));
    let same = refuse((&rows).into(), (&rows).into());
    assert!(matches!(same, BindError::Aliased { role: Role::Positions, .. }), "{same:?}");
}
