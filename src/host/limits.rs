/// A requested limit that exceeds the adapter's.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RefusedLimit {
    /// The field of [`wgpu::Limits`].
    pub name: &'static str,
    /// The value that was requested.
    pub asked: u64,
    /// The adapter's value.
    pub has: u64,
}

impl std::fmt::Display for RefusedLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} (it has {})", self.name, self.asked, self.has)
    }
}

/// Lists the limits of `asked` that exceed `has`. A lower alignment is the stricter request.
pub(super) fn refused(asked: &wgpu::Limits, has: &wgpu::Limits) -> Vec<RefusedLimit> {
    let mut refused = Vec::new();
    asked.check_limits_with_fail_fn(has, false, |name, asked, has| {
        refused.push(RefusedLimit { name, asked, has });
    });
    refused
}

/// Joins the limits for a message.
pub(super) fn listed(refused: &[RefusedLimit]) -> String {
    refused.iter().map(RefusedLimit::to_string).collect::<Vec<_>>().join("; ")
}
