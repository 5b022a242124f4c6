//! The kernels of attention, and which of them serve a spec.

use super::AttentionSpec;
use crate::format::CacheFormat;
use crate::gpu::{
    Access, AdapterClass, Binding, Caps, Const, Grid, KernelDesc, M_TABLE, Variable, fragment,
    uniform,
};
use crate::ops::FloatType;

/// The most rows that split what they see into parts.
pub(super) const DECODE_ROWS: u32 = 8;

/// The least number of slots of a part, except for the last one of a row.
pub(super) const PART_SLOTS: u32 = 128;

/// The most parts of a row.
const MAX_PARTS: u32 = 64;

/// Returns the number of parts that a row may have.
pub(super) fn parts(spec: &AttentionSpec) -> u32 {
    spec.slots.div_ceil(PART_SLOTS).clamp(1, MAX_PARTS)
}

/// The kernels that serve a spec.
pub(super) struct Shaders {
    pub decode: KernelDesc,
    pub combine: Option<KernelDesc>,
    pub prefill: Option<KernelDesc>,
}

pub(super) fn shaders(spec: &AttentionSpec, caps: &Caps) -> Shaders {
    let most = most_queries(spec, caps);
    let few = if spec.group() <= 4 { 4 } else { most };
    let tile = |queries| tile(spec, caps, queries);
    Shaders {
        decode: tile(few),
        combine: (parts(spec) > 1 || spec.hadamard).then(|| combine(caps)),
        prefill: (spec.max_m > DECODE_ROWS).then(|| tile(most)),
    }
}

/// Returns the number of queries of a large tile: 8, or 4 on software adapters where that takes their compilers too
/// long. SwiftShader takes more than 20 GB for `attention/workgroup` with eight queries. lavapipe of Mesa 25 takes 20
/// and 60 s for `attention/lanes` with eight queries and two or four octets a lane, and 6 to 11 s with four queries
/// and two octets.
fn most_queries(spec: &AttentionSpec, caps: &Caps) -> u32 {
    let small = caps.class == AdapterClass::Cpu && caps.subgroup != LANES
        || octets(spec, caps).is_some_and(|octets| octets > 1);
    if small { 4 } else { 8 }
}

/// Returns the number of octets of columns that a lane of `attention/lanes` keeps, 1, 2 or 4, if that kernel serves
/// the spec.
fn octets(spec: &AttentionSpec, caps: &Caps) -> Option<u32> {
    let lanes = caps.class == AdapterClass::Cpu && caps.subgroup == LANES && caps.int64;
    (lanes && !spec.plain).then(|| spec.head_dim.div_ceil(8 * LANES).next_power_of_two())
}

/// Queries of a unit that tiles divide: a row, or all rows.
pub(super) const UNIT_QUERIES: Variable = Variable {
    name: "queries",
    meaning: "queries of a head of the cache: heads / kv_heads, times the rows unless by_row is 1",
};

/// Rows, if each is divided into tiles by itself.
pub(super) const UNITS: Variable =
    Variable { name: "units", meaning: "rows in this dispatch if by_row is 1, otherwise 1" };

/// Heads of the cache.
pub(super) const KV_HEADS: Variable =
    Variable { name: "kv_heads", meaning: "the parameter `kv_heads`" };

/// Parts of the cache.
pub(super) const PARTS: Variable = Variable { name: "parts", meaning: "the parameter `parts`" };

/// Heads of queries.
pub(super) const HEADS: Variable = Variable { name: "heads", meaning: "the parameter `heads`" };

uniform! {
    /// The parameters of one dispatch.
    pub(super) struct Params for "AttentionParams" in "attention/query" {
        heads: u32,
        kv_heads: u32,
        group: u32,
        head_dim: u32,
        slots: u32,
        row_words: u32,
        keys_at: u32,
        values_at: u32,
        scales_at: u32,
        q_at: u32,
        q_stride: u32,
        q_f16: u32,
        y_at: u32,
        y_stride: u32,
        y_f16: u32,
        rows_at: u32,
        m0: u32,
        m_cap: u32,
        by_row: u32,
        parts: u32,
        part_slots: u32,
        scale: f32,
        cap: f32,
        reach: u32,
        bias_at: u32,
        biased: u32,
        hadamard: u32,
        root: f32,
        scratch_at: u32,
    }
}

/// Returns the number of columns of a block of the inverse Hadamard transform: the largest power of two
/// that divides the size of heads, or 1 if there is no transform.
pub(super) fn hadamard_block(spec: &AttentionSpec) -> u32 {
    if spec.hadamard { 1 << spec.head_dim.trailing_zeros().min(31) } else { 1 }
}

/// The size of subgroups that `attention/lanes` is made for.
const LANES: u32 = 8;

/// Lanes of `attention/workgroup`. Heads of up to 256 columns have 32 octets, so that there are two teams.
const WORKGROUP: u32 = 64;

/// Columns of the largest head, by fours.
const QUADS: u32 = 64;

/// Returns the kernel of a tile of `queries` queries.
fn tile(spec: &AttentionSpec, caps: &Caps, queries: u32) -> KernelDesc {
    let native = caps.exact_f16_unpack && spec.cache == CacheFormat::F16;
    let cache = match spec.cache {
        CacheFormat::F32 => "attention/cache_f32",
        CacheFormat::F16 => "attention/cache_f16",
        CacheFormat::Int8 => "attention/cache_int8",
        CacheFormat::Int4 => "attention/cache_int4",
    };
    let halves = (spec.cache == CacheFormat::F16).then_some(if native {
        "lib/half_pair_native"
    } else {
        "lib/half_pair"
    });
    let suffix = format!("{}{}", spec.cache, if native { ".half" } else { "" });
    let consts = [("M_TABLE", Const::U32(M_TABLE)), ("QUERIES", Const::U32(queries))];
    let kernel = |id: String, own: Vec<(&'static str, Const)>, words, main| KernelDesc {
        id,
        consts: consts.into_iter().chain(own).collect(),
        fragments: [cache, words].into_iter().chain(halves).chain([main]).map(fragment).collect(),
        bindings: bindings(),
        grid: Grid::new(&[(&[UNIT_QUERIES], queries), (&[UNITS, KV_HEADS, PARTS], 1)]),
        workgroup_size: WORKGROUP,
        workgroup_memory: 0,
        conditions: Vec::new(),
        weights: None,
    };
    if let Some(chunks) = octets(spec, caps) {
        let id = format!("attention_lanes_q{queries}_c{chunks}.{suffix}");
        let own = vec![("LANES", Const::U32(LANES)), ("CHUNKS", Const::U32(chunks))];
        let kernel = kernel(id, own, "access/cache_u64", "attention/lanes");
        let most = format!("heads have at most {} columns", 8 * LANES * chunks);
        return KernelDesc { workgroup_size: LANES, conditions: vec![most], ..kernel };
    }
    let id = format!("attention_group_q{queries}.{suffix}");
    let own = vec![("WORKGROUP", Const::U32(WORKGROUP)), ("HELD", Const::U32(QUADS))];
    let workgroup_memory = queries * (16 * QUADS + 4 * WORKGROUP + 24) + 4 * WORKGROUP;
    KernelDesc { workgroup_memory, ..kernel(id, own, "access/cache_u32", "attention/workgroup") }
}

/// Returns the kernel that combines parts and takes the inverse Hadamard transform.
fn combine(caps: &Caps) -> KernelDesc {
    let lanes = if caps.class == AdapterClass::Cpu { 8 } else { 64 };
    KernelDesc {
        id: format!("attention_combine_l{lanes}"),
        consts: vec![
            ("M_TABLE", Const::U32(M_TABLE)),
            ("QUERIES", Const::U32(1)),
            ("WORKGROUP", Const::U32(lanes)),
            ("HELD", Const::U32(QUADS)),
        ],
        fragments: vec![fragment("attention/combine")],
        bindings: bindings(),
        grid: Grid::new(&[(&[Variable::M, HEADS], 1)]),
        workgroup_size: lanes,
        workgroup_memory: 16 * QUADS,
        conditions: Vec::new(),
        weights: None,
    }
}

fn bindings() -> Vec<Binding> {
    let [low, high] = Binding::COUNTS;
    let data = Binding::data;
    vec![
        Binding::params("p", Params::LAYOUT),
        low,
        high,
        data(3, "q", "queries, row-major from element q_at on; f16 in pairs", Access::Read),
        data(4, "keys", "the cache of keys, from word keys_at on", Access::Read),
        data(5, "values", "the cache of values, from word values_at on", Access::Read),
        data(6, "rows", "(position, slot, first, end) of each row, u32", Access::Read),
        data(7, "bias", "the bias, if biased is 1: [heads, 2·reach + 1] f32", Access::Read),
        data(8, "y", "rows of results, from element y_at on; f16 in pairs", Access::Write),
        data(9, "scratch", "maximum, sum and values of each part", Access::Write),
    ]
}

/// Returns every kernel of this op on such a device.
pub(crate) fn kernels(caps: &Caps) -> Vec<KernelDesc> {
    let mut kernels = vec![combine(caps)];
    for cache in CacheFormat::ALL {
        for head_dim in [64, 128, 256] {
            for group in [4, 8] {
                let spec = AttentionSpec::new(16, group, 1, head_dim, 16).with_cache(cache);
                for spec in [spec.clone(), spec.plain()] {
                    let Shaders { decode, prefill, .. } = shaders(&spec, caps);
                    kernels.extend([decode].into_iter().chain(prefill));
                }
            }
        }
    }
    kernels
}

pub(super) fn is_f16(float: FloatType) -> u32 {
    u32::from(float == FloatType::F16)
}
