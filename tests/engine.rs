//! The engine's example, as a test: it judges all that it reads back.

#[path = "../examples/engine/main.rs"]
mod example;

#[test]
fn the_engines_frame_is_right() {
    if crate::common::host().is_some() {
        example::main().unwrap();
    }
}

/// It is documentation: short enough to read.
#[test]
fn the_program_is_short() {
    assert!(include_str!("../examples/engine/main.rs").lines().count() < 90);
}
