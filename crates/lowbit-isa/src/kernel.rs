use lowbit::gpu::{BindingRole, Feature, KernelDesc};
use lowbit::ops::matmul::{KernelChoice, Step};
use lowbit::ops::registry;
use std::collections::HashSet;

/// A kernel of the crate.
#[derive(Clone, Debug)]
pub struct Kernel {
    id: String,
    kernel: registry::Kernel,
}

impl From<registry::Kernel> for Kernel {
    fn from(kernel: registry::Kernel) -> Self {
        Self { id: kernel.id(), kernel }
    }
}

impl Kernel {
    /// Returns the kernel id.
    pub fn name(&self) -> &str {
        &self.id
    }

    /// Returns the choice behind a matmul kernel.
    pub fn choice(&self) -> Option<&KernelChoice> {
        self.kernel.choice()
    }

    /// Returns the description.
    pub fn desc(&self) -> KernelDesc {
        self.kernel.desc()
    }

    /// Returns the binding that a matmul kernel reads codes from.
    pub fn codes_binding(&self) -> Option<u32> {
        let desc = self.choice()?.shader();
        desc.binding(BindingRole::Codes).map(|binding| binding.number)
    }

    /// Returns what the main loop covers.
    pub fn step(&self) -> Option<Step> {
        self.kernel.step()
    }

    /// Returns whether it multiplies packed bytes.
    pub fn integer_dot(&self) -> bool {
        self.uses(&[Feature::PackedDot])
    }

    /// Returns whether it multiplies cooperative matrices.
    pub fn matrix(&self) -> bool {
        self.uses(&[Feature::Matrix8, Feature::Matrix16])
    }

    /// Lanes a wave must have: matrices are those of half waves.
    pub fn wave(&self) -> Option<u32> {
        self.matrix().then_some(32)
    }

    fn uses(&self, any: &[Feature]) -> bool {
        // Fragments that do not compose are an error where the kernel is compiled.
        let features = self.desc().features().unwrap_or_default();
        any.iter().any(|feature| features.contains(feature))
    }
}

/// Returns every kernel that some spec composes to on a GPU, each once.
pub fn kernels() -> Vec<Kernel> {
    registry::kernels(&registry::gpus()).into_iter().map(Kernel::from).collect()
}

/// Returns the kernels that only software adapters take.
pub fn cpu_kernels() -> Vec<Kernel> {
    let gpus: HashSet<_> = registry::kernels(&registry::gpus()).into_iter().collect();
    let cpus = registry::kernels(&registry::cpus()).into_iter();
    cpus.filter(|kernel| !gpus.contains(kernel)).map(Kernel::from).collect()
}

/// Returns the kernel of an id: any that some spec composes to on some device.
pub fn find(id: &str) -> Option<Kernel> {
    registry::find(id).map(Kernel::from)
}

/// Returns every kernel that is no matmul, and a covering of the matmuls: enough of them that every
/// pair of [properties](KernelChoice::properties) occurs. They are schedule, lanes that share a row, decoder with
/// scaling, zero points, type of scales, X, Y, bias, tail with pairs and subgroups, and activation
/// function; for integer products also how groups meet, the zero points of X, and how they multiply.
pub fn covering(kernels: Vec<Kernel>) -> Vec<Kernel> {
    let (matmuls, others): (Vec<_>, _) =
        kernels.into_iter().partition(|kernel| kernel.choice().is_some());
    let mut some = registry::covering(matmuls, properties);
    some.extend(others);
    some
}

/// Returns every kernel that is no matmul, and enough of the others that every property occurs.
pub fn each_once(kernels: Vec<Kernel>) -> Vec<Kernel> {
    let mut seen = HashSet::new();
    let mut brings = |kernel: &Kernel| {
        let new = properties(kernel).into_iter().filter(|part| seen.insert(part.clone())).count();
        new > 0 || kernel.choice().is_none()
    };
    kernels.into_iter().filter(|kernel| brings(kernel)).collect()
}

fn properties(kernel: &Kernel) -> Vec<String> {
    kernel.choice().map(KernelChoice::properties).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_the_kernels_covers_all_pairs_of_properties() {
        let kernels = kernels();
        let total = kernels.len();
        let some = covering(kernels);
        assert!(some.len() * 4 < total, "{} of {total}", some.len());
        eprintln!("{} of {total} kernels cover every pair of properties", some.len());
    }
}
