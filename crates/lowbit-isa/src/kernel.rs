use lowbit::gpu::{BindingRole, Feature, KernelDesc};
use lowbit::ops::matmul::{KernelChoice, Schedule, Step};
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
    /// The kernel id.
    pub fn name(&self) -> &str {
        &self.id
    }

    /// The choice behind a matmul kernel.
    pub fn choice(&self) -> Option<&KernelChoice> {
        self.kernel.choice()
    }

    /// The description.
    pub fn desc(&self) -> KernelDesc {
        self.kernel.desc()
    }

    /// The binding that a matmul kernel reads codes from.
    pub fn codes_binding(&self) -> Option<u32> {
        let desc = self.choice()?.shader();
        desc.binding(BindingRole::Codes).map(|binding| binding.number)
    }

    /// What the main loop covers.
    pub fn step(&self) -> Option<Step> {
        self.kernel.step()
    }

    /// Whether it multiplies packed bytes.
    pub fn integer_dot(&self) -> bool {
        self.uses(&[Feature::PackedDot])
    }

    /// Whether it multiplies cooperative matrices.
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

/// Every kernel that some spec composes to on a GPU, each once.
pub fn kernels() -> Vec<Kernel> {
    registry::kernels(&registry::gpus()).into_iter().map(Kernel::from).collect()
}

/// The kernels that only software adapters take.
pub fn cpu_kernels() -> Vec<Kernel> {
    let gpus: HashSet<_> = registry::kernels(&registry::gpus()).into_iter().collect();
    let cpus = registry::kernels(&registry::cpus()).into_iter();
    cpus.filter(|kernel| !gpus.contains(kernel)).map(Kernel::from).collect()
}

/// The kernel of an id: any that some spec composes to on some device.
pub fn find(id: &str) -> Option<Kernel> {
    registry::find(id).map(Kernel::from)
}

/// Of these kernels every one that is no matmul, and so many others that every two properties that
/// occur together do: schedule, lanes that share a row, decoder with scaling, zero points, type of scales, X, Y, bias, tail
/// with pairs and subgroups, activation function; of integer products how groups meet, zero points
/// of X and how they multiply.
pub fn covering(kernels: Vec<Kernel>) -> Vec<Kernel> {
    let (matmuls, others): (Vec<_>, _) =
        kernels.into_iter().partition(|kernel| kernel.choice().is_some());
    let mut some = registry::covering(matmuls, properties);
    some.extend(others);
    some
}

/// Of these kernels every one that is no matmul, and so many others that every property occurs.
pub fn each_once(kernels: Vec<Kernel>) -> Vec<Kernel> {
    let mut seen = HashSet::new();
    let mut brings = |kernel: &Kernel| {
        let new = properties(kernel).into_iter().filter(|part| seen.insert(part.clone())).count();
        new > 0 || kernel.choice().is_none()
    };
    kernels.into_iter().filter(|kernel| brings(kernel)).collect()
}

fn properties(kernel: &Kernel) -> Vec<String> {
    let Some(c) = kernel.choice() else { return Vec::new() };
    // Lanes that share a row change little beside the loop, so they need not meet every loop.
    let (schedule, lanes) = match c.schedule {
        Schedule::Gemv { lanes, m_tile } => (format!("gemv_m{m_tile}"), lanes),
        Schedule::IntGemv { lanes, m_tile } => (format!("int_gemv_m{m_tile}"), lanes),
        other => (other.to_string(), 0),
    };
    let properties = [
        schedule,
        lanes.to_string(),
        format!("{:?} {:?}", c.decoder, c.scaling),
        c.asymmetric.to_string(),
        format!("{:?}", c.scale_type),
        format!("{:?}", c.x),
        format!("{:?}", c.y),
        c.bias.to_string(),
        format!("{} {} {}", c.ragged, c.pair, c.subgroup_sum),
        format!("{:?}", c.integer.map(|i| (i.w_groups, i.x_groups, i.whole))),
        format!("{:?}", c.integer.map(|i| (i.x_zeros, i.packed_dot))),
        c.function.name().to_string(),
    ];
    (0..).zip(properties).map(|(number, value): (u32, _)| format!("{number} {value}")).collect()
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
