//! Every kernel of the crate, on devices that between them differ in what choices look at. Tests,
//! `lowbit shader` and `lowbit-isa` walk this list.

use super::matmul::{self, KernelChoice, Step};
use super::{
    dequantize, fake_quant, limits, observe, probe, quantize_activations, quantize_weights, repack,
};
use crate::format::RowOrder;
use crate::gpu::{AdapterClass, Caps, KernelDesc};
use std::collections::{HashMap, HashSet};

/// A kernel of some op.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kernel(Of);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Of {
    /// There are many of these, and a choice is small.
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
    /// The kernel id.
    pub fn id(&self) -> String {
        match &self.0 {
            Of::Matmul(choice) => choice.name(),
            Of::Other(desc) => desc.id.clone(),
        }
    }

    /// The description.
    pub fn desc(&self) -> KernelDesc {
        match &self.0 {
            Of::Matmul(choice) => choice.shader(),
            Of::Other(desc) => (**desc).clone(),
        }
    }

    /// The choice behind a matmul kernel.
    pub fn choice(&self) -> Option<&KernelChoice> {
        match &self.0 {
            Of::Matmul(choice) => Some(choice),
            Of::Other(_) => None,
        }
    }

    /// What the main loop of a matmul kernel covers.
    pub fn step(&self) -> Option<Step> {
        self.choice().map(Step::new)
    }
}

/// All kernels of an op on a device.
type List = fn(&Caps) -> Vec<Kernel>;

/// The kernels that are no matmul.
const OTHERS: [List; 9] = [
    matmul::sums_kernels,
    quantize_weights::kernels,
    repack::kernels,
    dequantize::kernels,
    quantize_activations::kernels,
    observe::kernels,
    fake_quant::kernels,
    probe::kernels,
    limits::kernels,
];

/// Every kernel on any of the devices, each once.
pub fn kernels(devices: &[Caps]) -> Vec<Kernel> {
    let mut seen = HashSet::new();
    let mut kernels = Vec::new();
    for list in [matmul::kernels as List].into_iter().chain(OTHERS) {
        for kernel in devices.iter().flat_map(list) {
            if seen.insert(kernel.clone()) {
                kernels.push(kernel);
            }
        }
    }
    kernels
}

/// Every kernel of the crate, each once.
pub fn all() -> Vec<Kernel> {
    kernels(&[gpus(), cpus()].concat())
}

/// Of these kernels those whose composed shaders differ. Fragments and constants determine the
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

/// Graphics processors that differ in what choices look at.
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

/// Software adapters that differ in what choices look at: every size of subgroup that shares loads,
/// 64-bit words, textures, either order of rows.
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

/// The kernel of an id: any that some spec composes to on some device, even with features that no
/// device of the lists combines.
pub fn find(id: &str) -> Option<Kernel> {
    if let Ok(choice) = id.parse::<KernelChoice>() {
        return Some(choice.into());
    }
    let devices = [gpus(), cpus()].concat();
    let others = OTHERS.iter().flat_map(|list| devices.iter().flat_map(list));
    others.into_iter().find(|kernel| kernel.id() == id)
}

/// So many of `items` that every two parts that some item has together occur together in one of
/// them: greedy, first the items that bring many new pairs. Items keep their order.
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

/// The parts of a kernel that a covering of shaders goes by: its fragments and its constants.
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
