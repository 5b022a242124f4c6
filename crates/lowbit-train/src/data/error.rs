use std::path::PathBuf;

/// The reason why there are no examples.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file cannot be read.
    #[error("{path} cannot be read: {error}{hint}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        error: std::io::Error,
        /// The next step, or nothing.
        hint: &'static str,
    },
    /// A file is not in idx format, or not of the kind that is needed.
    #[error("{path} {why}")]
    Format {
        /// The file.
        path: PathBuf,
        /// The fault.
        why: String,
    },
    /// There is not a row of inputs for each label.
    #[error("{labels} labels with {columns} inputs each need {} inputs, but there are {inputs}",
        labels.saturating_mul(*columns))]
    Lengths {
        /// Number of labels.
        labels: usize,
        /// Inputs of an example.
        columns: usize,
        /// Number of inputs.
        inputs: usize,
    },
}
