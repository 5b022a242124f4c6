/// A limit that was asked for and that the adapter does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedLimit {
    /// The field of [`wgpu::Limits`].
    pub name: &'static str,
    /// What was asked for.
    pub asked: u64,
    /// What the adapter has.
    pub has: u64,
}

impl std::fmt::Display for RefusedLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {}, where it has {}", self.name, self.asked, self.has)
    }
}

/// Which of `asked` the adapter does not have; alignments count as worse where they are lower.
pub(super) fn refused(asked: &wgpu::Limits, has: &wgpu::Limits) -> Vec<RefusedLimit> {
    let mut refused = Vec::new();
    asked.check_limits_with_fail_fn(has, false, |name, asked, has| {
        refused.push(RefusedLimit { name, asked, has });
    });
    refused
}

/// The limits in a row, for a message.
pub(super) fn listed(refused: &[RefusedLimit]) -> String {
    refused.iter().map(RefusedLimit::to_string).collect::<Vec<_>>().join("; ")
}
