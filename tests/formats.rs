//! Matmuls with every kind of weight format, beside those of the case table.

use crate::common::host;
use lowbit::conformance::{self, Case, Extent, Op, Status, Values};
use lowbit::format::{Offset, other_formats};
use lowbit::ops::{FloatType, Schedule};

/// Every format of the list with one schedule of those that exist, in turn, at a K that is whole
/// super-blocks and at one that is no whole block.
#[test]
fn every_format_multiplies() {
    let mut cases = Vec::new();
    for (turn, format) in other_formats().into_iter().enumerate() {
        for k in [544, 301] {
            let schedules = Schedule::all(k as u32);
            let schedule = schedules[(turn * 7 + k) % schedules.len()];
            let types = [FloatType::F32, FloatType::F16];
            let types = (types[turn / 2 % 2], types[turn / 3 % 2]);
            let m = [1, 5, 33][turn % 3];
            let mut case = Case::matmul(format, types, (m, 70, k), Values::Normal);
            case.schedule = Some(schedule);
            (case.bias, case.strided) = (turn % 2 == 0, turn % 3 == 0);
            cases.push(case);
        }
    }
    check(&cases);
}

/// A fifth of those cases of the table that multiply int8 activations with formats of the list:
/// `lowbit verify` runs all of them.
#[test]
fn every_integer_format_multiplies_int8_activations() {
    let formats = other_formats();
    let mut cases = conformance::table(Extent::Full);
    cases.retain(|case| matches!(case.op, Op::IntegerMatmul(_)) && formats.contains(&case.format));
    assert!(cases.len() > 100, "{}", cases.len());
    for offset in [Offset::Fixed, Offset::ZeroPoint4, Offset::FloatZeroPoint, Offset::Minimum] {
        assert!(cases.iter().any(|case| case.format.offset() == offset), "{offset:?}");
    }
    check(&cases.into_iter().step_by(5).collect::<Vec<_>>());
}

fn check(cases: &[Case]) {
    let Some(host) = host() else { return };
    let reports = conformance::run(std::slice::from_ref(host), cases, &|_| ());
    let failed: Vec<_> = reports
        .iter()
        .filter(|report| report.status != Status::Pass)
        .map(|report| format!("{}: {}", report.id, report.reason.as_deref().unwrap_or_default()))
        .collect();
    assert!(failed.is_empty(), "{} of {}: {failed:#?}", failed.len(), cases.len());
}
