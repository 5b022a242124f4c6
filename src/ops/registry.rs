//! The registry lists every kernel of the crate, for a set of devices that differ in all facts by
//! which kernels are chosen. Tests, `lowbit shader` and `lowbit-isa` walk over it.

use super::matmul::{self, KernelChoice, Step};
use super::{
    attention, columns, combine, dequantize, factor, fake_quant, gate, gram, hadamard, limits,
    norm, observe, permute_columns, positions, probe, products, quantize_activations,
    quantize_weights, repack, rotary, route, sample, softmax,
};
use crate::format::RowOrder;
use crate::gpu::{AdapterClass, Caps, KernelDesc};
use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

/// A kernel of some op.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kernel(Of);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Of {
    /// A choice, which is small, because there are many matmul kernels.
    Matmul(KernelChoice),
    Other(Box<KernelDesc>),
}

impl From<KernelChoice> for Kernel {
    fn from(choice: KernelChoice) -> Self {
        Self(Of::Matmul(choice))
    }
}

impl From<KernelDesc> for Kernel {
    fn from(desc: KernelDesc) -> Self {
        Self(Of::Other(Box::new(desc)))
    }
}

impl Kernel {
    /// Returns the kernel id.
    pub fn id(&self) -> String {
        match &self.0 {
            Of::Matmul(choice) => choice.name(),
            Of::Other(desc) => desc.id.clone(),
        }
    }

    /// Returns the description of the kernel.
    pub fn desc(&self) -> KernelDesc {
        match &self.0 {
            Of::Matmul(choice) => choice.shader(),
            Of::Other(desc) => (**desc).clone(),
        }
    }

    /// Returns the choice that this kernel was made from, if it is a matmul kernel.
    pub fn choice(&self) -> Option<&KernelChoice> {
        match &self.0 {
            Of::Matmul(choice) => Some(choice),
            Of::Other(_) => None,
        }
    }

    /// Returns what one iteration of the main loop covers, if this is a matmul kernel.
    pub fn step(&self) -> Option<Step> {
        self.choice().map(Step::new)
    }
}

/// A function that lists all kernels of an op on a device. Ops describe their kernels and do not use
/// this module, so that imports have one direction.
type List = fn(&Caps) -> Vec<KernelDesc>;

/// The lists of kernels that are not chosen by [`KernelChoice`].
const OTHERS: &[List] = &[
    matmul::sums_kernels,
    quantize_weights::kernels,
    repack::kernels,
    route::kernels,
    combine::kernels,
    dequantize::kernels,
    quantize_activations::kernels,
    permute_columns::kernels,
    positions::kernels,
    rotary::kernels,
    norm::kernels,
    hadamard::kernels,
    gate::kernels,
    sample::kernels,
    softmax::kernels,
    observe::kernels,
    gram::kernels,
    products::kernels,
    factor::kernels,
    columns::kernels,
    fake_quant::kernels,
    probe::kernels,
    limits::kernels,
    attention::kernels,
];

/// Returns the kernels of all ops on any of these devices, each of them once.
pub fn kernels(devices: &[Caps]) -> Vec<Kernel> {
    let mut seen = HashSet::new();
    let matmuls = devices.iter().flat_map(matmul::kernels).map(Kernel::from);
    let others = OTHERS.iter().flat_map(|list| devices.iter().flat_map(list)).map(Kernel::from);
    matmuls.chain(others).filter(|kernel| seen.insert(kernel.clone())).collect()
}

/// Returns every kernel of the crate once.
pub fn all() -> Vec<Kernel> {
    kernels(&[gpus(), cpus()].concat())
}

/// Returns those of the kernels whose composed shaders differ. Fragments and constants determine the
/// shader; ids also tell apart kernels that only share it.
pub fn distinct_shaders(kernels: Vec<Kernel>) -> Vec<Kernel> {
    let mut seen = HashSet::new();
    let mut is_new = |kernel: &Kernel| {
        let desc = kernel.desc();
        let names: Vec<_> = desc.fragments.iter().map(|fragment| fragment.name).collect();
        seen.insert((names, desc.consts))
    };
    kernels.into_iter().filter(|kernel| is_new(kernel)).collect()
}

/// Returns the caps of GPUs that differ in the facts by which kernels are chosen.
pub fn gpus() -> Vec<Caps> {
    let plain = Caps::from_limits(AdapterClass::Gpu, &wgpu::Limits::defaults());
    vec![
        Caps { packed_dot: true, ..plain.clone() },
        Caps { subgroups: true, ..plain.clone() },
        Caps { subgroups: true, packed_dot: true, ..plain.clone() },
        Caps { exact_f16_unpack: true, ..plain.clone() },
        Caps { matrix: 16, ..plain.clone() },
        Caps { matrix: 16, exact_f16_unpack: true, ..plain.clone() },
        Caps { matrix: 8, ..plain.clone() },
        Caps { matrix: 8, exact_f16_unpack: true, ..plain.clone() },
        plain,
    ]
}

/// Returns the caps of software adapters that differ in the facts by which kernels are chosen: the
/// size of subgroups that share loads, 64-bit words, textures, and the row order.
pub fn cpus() -> Vec<Caps> {
    let plain = Caps::from_limits(AdapterClass::Cpu, &wgpu::Limits::defaults());
    let with = |subgroup, int64, texture_extent, exact_f16_unpack| {
        let subgroups = subgroup > 0;
        Caps { subgroup, subgroups, int64, texture_extent, exact_f16_unpack, ..plain.clone() }
    };
    let all = [
        with(0, false, 0, false),
        with(0, true, 0, false),
        with(4, true, 8192, false),
        with(4, true, 8192, true),
        with(8, false, 0, false),
        with(8, true, 0, false),
        with(8, true, 0, true),
        with(16, true, 0, false),
        Caps { row_order: RowOrder::Rows, ..plain.clone() },
    ];
    let packed = all.clone().map(|caps| Caps { packed_dot: true, ..caps });
    all.into_iter().chain(packed).collect()
}

/// Returns the kernel with this id. It may be any kernel that some spec needs on some device, also
/// with features that no device of [`gpus`] and [`cpus`] combines.
pub fn find(id: &str) -> Option<Kernel> {
    if let Ok(choice) = id.parse::<KernelChoice>() {
        return Some(choice.into());
    }
    static OF_IDS: LazyLock<HashMap<String, KernelDesc>> = LazyLock::new(|| {
        let alone = |caps: Caps| {
            [(false, false), (false, true), (true, false), (true, true)].map(|(wide, exact)| {
                let int64 = if caps.class == AdapterClass::Cpu { wide } else { caps.int64 };
                Caps { int64, exact_f16_unpack: exact, ..caps.clone() }
            })
        };
        let devices: Vec<Caps> = gpus().into_iter().chain(cpus()).flat_map(alone).collect();
        let others = OTHERS.iter().flat_map(|list| devices.iter().flat_map(list));
        others.map(|desc| (desc.id.clone(), desc)).collect()
    });
    OF_IDS.get(id).cloned().map(Kernel::from)
}

/// Returns a covering: a subset of `items` in which every pair of parts occurs that occurs in some
/// item. The choice is greedy and takes items that bring many new pairs first. Items keep their
/// order.
pub fn covering<T>(items: Vec<T>, parts: impl Fn(&T) -> Vec<String>) -> Vec<T> {
    let mut numbers: HashMap<String, usize> = HashMap::new();
    let mut numbered = |item: &T| {
        let mut all: Vec<usize> = Vec::new();
        for part in parts(item) {
            let next = numbers.len();
            all.push(*numbers.entry(part).or_insert(next));
        }
        all.sort_unstable();
        all.dedup();
        all
    };
    let items: Vec<_> = items.into_iter().map(|item| (numbered(&item), item)).collect();
    let size = numbers.len();
    let mut met = vec![false; size * size];
    let mut chosen = vec![false; items.len()];
    let each_pair = |all: &[usize], to: &mut dyn FnMut(usize)| {
        for (i, a) in all.iter().enumerate() {
            all[i..].iter().for_each(|b| to(a * size + b));
        }
    };
    for least in [128, 32, 8, 4, 2, 1] {
        for ((all, _), chosen) in items.iter().zip(&mut chosen).filter(|(_, chosen)| !**chosen) {
            let mut new = 0;
            each_pair(all, &mut |pair| new += u32::from(!met[pair]));
            if new >= least {
                *chosen = true;
                each_pair(all, &mut |pair| met[pair] = true);
            }
        }
    }
    let chosen = items.into_iter().zip(chosen).filter(|(_, chosen)| *chosen);
    chosen.map(|((_, item), _)| item).collect()
}

/// Returns the parts of a kernel for [`covering`]: its fragments and its constants.
pub fn parts(desc: &KernelDesc) -> Vec<String> {
    let fragments = desc.resolve().unwrap_or_default();
    let consts = desc.consts.iter().map(|(name, value)| format!("{name} {value}"));
    fragments.iter().map(|fragment| fragment.name.to_string()).chain(consts).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_covering_meets_every_pair() {
        let items: Vec<[u32; 4]> =
            (0..256).map(|i| [i & 3, i >> 2 & 3, i >> 4 & 3, i >> 6].map(|v: u32| v)).collect();
        let parts = |item: &[u32; 4]| {
            item.iter().zip("abcd".chars()).map(|(v, c)| format!("{c}{v}")).collect::<Vec<_>>()
        };
        let pairs = |items: &[[u32; 4]]| {
            let mut pairs = HashSet::new();
            for parts in items.iter().map(parts) {
                pairs.extend(
                    parts.iter().flat_map(|a| parts.iter().map(move |b| (a.clone(), b.clone()))),
                );
            }
            pairs
        };
        let some = covering(items.clone(), parts);
        assert_eq!(pairs(&some), pairs(&items));
        assert!(some.len() < 64, "{}", some.len());
    }
}
