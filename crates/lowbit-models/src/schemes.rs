//! Who makes the weights of a scheme.

use lowbit::compress::{Rule, Scheme};
use lowbit::ops::FormatUse;

/// Returns whether kernels make weights of a scheme. If not, they are made on the CPU, whatever compresses a
/// file, and nothing is compared.
pub fn has_kernels(scheme: &Scheme) -> bool {
    scheme.rule() == Rule::Nearest && FormatUse::QuantizeWeights.check(&scheme.format()).is_ok()
}
