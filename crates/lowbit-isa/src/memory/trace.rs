use super::count::{Banks, Lines};
use super::rewrite::{Place, Site, rewrite};
use super::{MemoryError, Operand};
use lowbit::gpu::{Instrument, Instrumented, KernelDesc};
use lowbit::host::Host;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Accesses that the log holds. They take 8 bytes each.
const CAPACITY: u32 = 6 << 20;

/// Workgroups that one trace can tell apart, as in `trace.wgsl`.
pub(super) const MOST_GROUPS: u64 = 64;

/// Sites that one tracer can tell apart.
const MOST_SITES: usize = 1 << 16;

/// Writes down which bytes the lanes of kernels load and store: the log in device memory, and the
/// sites of the shaders that were rewritten.
#[derive(Debug)]
pub struct Tracer {
    log: wgpu::Buffer,
    layout: wgpu::BindGroupLayout,
    group: wgpu::BindGroup,
    known: Mutex<Known>,
    /// Kernels that are traced; all if there is no list.
    only: Option<HashSet<String>>,
    /// Text of shaders that is replaced first, for tests that plant a fault.
    pub(super) replaced: Option<(&'static str, &'static str)>,
}

#[derive(Clone, Debug, Default)]
struct Known {
    kernels: Vec<KernelDesc>,
    /// By number: the kernel that it is in.
    sites: Vec<(usize, Site)>,
}

impl Tracer {
    /// Creates a log on the device of `host`.
    ///
    /// # Errors
    /// Returns [`MemoryError::Host`] if the device has no memory for it.
    pub fn new(host: &Host) -> Result<Self, MemoryError> {
        let log = host.zeros(8 + 8 * u64::from(CAPACITY))?;
        let device = host.device();
        let label = Some("lowbit trace");
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label,
            entries: &[wgpu::BindGroupLayoutEntry {
                binding: 0,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: wgpu::BufferBindingType::Storage { read_only: false },
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            }],
        });
        let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label,
            layout: &layout,
            entries: &[wgpu::BindGroupEntry { binding: 0, resource: log.as_entire_binding() }],
        });
        Ok(Self { log, layout, group, known: Mutex::default(), only: None, replaced: None })
    }

    /// Leaves all kernels but these as they are.
    #[must_use]
    pub fn only(self, kernels: impl IntoIterator<Item = String>) -> Self {
        Self { only: Some(kernels.into_iter().collect()), ..self }
    }

    /// Empties the log. Of each `every` workgroups one is traced from now on, of each dispatch at
    /// most 64.
    pub fn start(&self, host: &Host, every: u32) {
        let words = [0, every.max(1)];
        host.queue().write_buffer(&self.log, 0, bytemuck::cast_slice(&words));
    }

    /// Returns what was written down since [`start`](Self::start).
    ///
    /// # Errors
    /// Returns [`MemoryError::Full`] if that did not fit into the log, and the errors of reading.
    pub fn take(&self, host: &Host) -> Result<Trace, MemoryError> {
        let wanted = host.read(&self.log, 0, 1)?.first().copied().unwrap_or(0);
        if wanted > CAPACITY {
            return Err(MemoryError::Full { wanted, capacity: CAPACITY });
        }
        let words = host.read(&self.log, 2, 2 * wanted as usize)?;
        let Known { kernels, sites } = self.known().clone();
        Ok(Trace::new(kernels, sites, words.as_chunks().0))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Instrument for Tracer {
    fn instrument(&self, kernel: &KernelDesc, wgsl: &str) -> Result<Option<Instrumented>, String> {
        if self.only.as_ref().is_some_and(|only| !only.contains(&kernel.id)) {
            return Ok(None);
        }
        let wgsl = match self.replaced {
            Some((from, to)) if wgsl.contains(from) => wgsl.replace(from, to),
            Some((from, _)) => return Err(format!("nothing to replace: `{from}`")),
            None => wgsl.to_string(),
        };
        let mut known = self.known();
        let (module, sites) = rewrite(&wgsl, known.sites.len() as u32)?;
        if known.sites.len() + sites.len() > MOST_SITES {
            return Err(format!("more than {MOST_SITES} loads and stores; use a new tracer"));
        }
        let number = known.kernels.len();
        known.kernels.push(kernel.clone());
        known.sites.extend(sites.into_iter().map(|site| (number, site)));
        Ok(Some(Instrumented {
            source: wgpu::ShaderSource::Naga(std::borrow::Cow::Owned(module)),
            layout: self.layout.clone(),
            group: self.group.clone(),
        }))
    }
}

/// One lane's part in an access. The order of fields is that of accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Part {
    site: u16,
    group: u16,
    /// How many times the lane had been at the site before.
    turn: u32,
    lane: u16,
    at: u32,
}

/// The bytes that the lanes of some kernels loaded and stored.
#[derive(Clone, Debug)]
pub struct Trace {
    kernels: Vec<KernelDesc>,
    sites: Vec<(usize, Site)>,
    /// In order: those of one access stand together.
    parts: Vec<Part>,
}

/// Lines of a kernel's operands, and cycles of its workgroup memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counted {
    /// By operand.
    pub lines: BTreeMap<Operand, Lines>,
    /// Workgroup memory.
    pub banks: Banks,
}

impl Trace {
    /// Records are in the order in which each lane wrote its own.
    fn new(kernels: Vec<KernelDesc>, sites: Vec<(usize, Site)>, records: &[[u32; 2]]) -> Self {
        let mut turns: HashMap<u32, u32> = HashMap::new();
        let mut parts: Vec<Part> = Vec::with_capacity(records.len());
        for &[which, at] in records {
            let turn = turns.entry(which).or_default();
            let (site, lane) = ((which >> 16) as u16, which as u16);
            parts.push(Part { site, group: lane / 1024, turn: *turn, lane: lane % 1024, at });
            *turn += 1;
        }
        parts.sort_unstable();
        Self { kernels, sites, parts }
    }

    /// Returns the ids of the kernels that ran.
    pub fn kernels(&self) -> Vec<&str> {
        let mut ran = vec![false; self.kernels.len()];
        for part in &self.parts {
            if let Some((kernel, _)) = self.sites.get(usize::from(part.site)) {
                ran[*kernel] = true;
            }
        }
        let ran = self.kernels.iter().zip(ran).filter(|(_, ran)| *ran);
        ran.map(|(kernel, _)| kernel.id.as_str()).collect()
    }

    /// Returns the number of workgroups that were traced.
    pub fn groups(&self) -> u64 {
        let mut groups = [false; MOST_GROUPS as usize];
        self.parts.iter().for_each(|part| groups[usize::from(part.group)] = true);
        groups.into_iter().filter(|traced| *traced).count() as u64
    }

    /// Returns the number of bytes that the lanes of a kernel load from workgroup memory.
    pub fn workgroup_loads(&self, kernel: &str) -> u64 {
        let bytes = |part: &Part| match self.sites.get(usize::from(part.site)) {
            Some(&(number, Site { place: Place::Workgroup(_), bytes, store: false }))
                if self.kernels[number].id == kernel =>
            {
                u64::from(bytes)
            }
            _ => 0,
        };
        self.parts.iter().map(bytes).sum()
    }

    /// Counts lines and conflicts of a kernel for subgroups of `width` invocations: invocations
    /// `width · i` to `width · i + width − 1` of a workgroup are one, whatever the adapter does that
    /// ran the kernel.
    pub fn count(&self, kernel: &str, width: u16) -> Counted {
        let mut counted = Counted::default();
        let subgroup = |part: &Part| (part.site, part.group, part.turn, part.lane / width.max(1));
        let mut starts = Vec::new();
        for access in self.parts.chunk_by(|a, b| subgroup(a) == subgroup(b)) {
            let Some(&(number, site)) = self.sites.get(usize::from(access[0].site)) else {
                continue;
            };
            let desc = &self.kernels[number];
            if desc.id != kernel {
                continue;
            }
            starts.clear();
            starts.extend(access.iter().map(|part| part.at));
            match site.place {
                Place::Workgroup(_) => counted.banks.add(&starts, site.bytes),
                Place::Binding(number) => {
                    let binding = desc.bindings.iter().find(|b| b.number == number);
                    let operand = binding.map_or(Operand::X, Operand::of);
                    counted.lines.entry(operand).or_default().add(&mut starts, site.bytes);
                }
            }
        }
        counted
    }

    /// Returns the number of different bytes of an operand of a kernel that any lane touched.
    pub fn distinct_bytes(&self, kernel: &str, operand: Operand) -> u64 {
        let mut touched: Vec<(u32, u64, u64)> = Vec::new();
        for part in &self.parts {
            let Some(&(number, site)) = self.sites.get(usize::from(part.site)) else { continue };
            let desc = &self.kernels[number];
            let Place::Binding(binding) = site.place else { continue };
            let of = desc.bindings.iter().find(|b| b.number == binding).map(Operand::of);
            if desc.id == kernel && of == Some(operand) {
                let start = u64::from(part.at);
                touched.push((binding, start, start + u64::from(site.bytes)));
            }
        }
        touched.sort_unstable();
        let (mut bytes, mut last) = (0, (0, 0));
        for (binding, start, stop) in touched {
            let from = if last.0 == binding { start.max(last.1) } else { start };
            bytes += stop.saturating_sub(from);
            last = (binding, if last.0 == binding { stop.max(last.1) } else { stop });
        }
        bytes
    }
}
