//! How long-running functions report their progress.

/// A step of work on one tensor. Functions that take a `&mut dyn FnMut(Step<'_>)` call it twice for
/// each tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step<'a> {
    /// Work on the tensor of this name begins.
    Started(&'a str),
    /// Work on the tensor of this name is done.
    Finished(&'a str),
}
