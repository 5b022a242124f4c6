//! Checks that recording allocates nothing of its own: it makes as many allocations as wgpu for the
//! same commands, counted on this thread.

mod common;
#[path = "common/counting.rs"]
mod counting;

use counting::{allocations, bare, bound, by_hand};

#[test]
fn recording_allocates_nothing() {
    let noop = common::Noop::new(wgpu::Limits::defaults());
    let whole = bound(&noop, u64::MAX);
    let split = bound(&noop, 8192);
    assert_eq!(whole.dispatches(), 1);
    assert!(split.dispatches() > 50);
    let bare = bare(&noop, whole.plan().kernel(70));
    for (bound, repeats) in [(&whole, 1), (&whole, 40), (&split, 1), (&split, 3)] {
        let ours = || {
            allocations(&noop, |pass| {
                for _ in 0..repeats {
                    bound.record(pass, 70).unwrap();
                }
            })
        };
        let theirs = |extra: bool| {
            allocations(&noop, |pass| {
                for _ in 0..repeats {
                    by_hand(pass, &bare, bound.dispatches());
                    if extra {
                        std::hint::black_box(Vec::<u8>::with_capacity(1));
                    }
                }
            })
        };
        let (first, wgpu) = (ours(), theirs(false));
        assert_eq!(first, wgpu, "{} dispatches {repeats} times", bound.dispatches());
        // The count is the same later on: nothing is cached or grown.
        assert_eq!(ours(), wgpu);
        // A single allocation per recording would be detected.
        assert_eq!(theirs(true), wgpu + repeats);
    }
}

/// Recordings that return an error leave the pass unchanged and allocate nothing either.
#[test]
fn a_refused_recording_records_nothing() {
    let noop = common::Noop::new(wgpu::Limits::defaults());
    let whole = bound(&noop, u64::MAX);
    let count = allocations(&noop, |pass| {
        assert!(whole.record(pass, 71).is_err());
        assert!(whole.record(pass, u32::MAX).is_err());
    });
    assert_eq!(count, 0);
}
