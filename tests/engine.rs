//! The engine example, run as a test. It checks all of its results.

#[path = "../examples/engine/main.rs"]
mod example;

#[test]
fn the_engines_frame_is_right() {
    if crate::common::host().is_some() {
        example::main().unwrap();
    }
}

/// The example is documentation, so it must be short enough to read.
#[test]
fn the_program_is_short() {
    assert!(include_str!("../examples/engine/main.rs").lines().count() < 90);
}
