//! Cases of preparing queries, keys and values. Queries and every head that was written to a cache are
//! checked against their definition; nothing else may have changed.

use super::case::Rotary;
use super::data::{self, Random};
use super::matmul::{SENTINEL, output};
use super::report::{ErrorOverBound, Outcome, Trouble};
use super::rows::Rows;
use super::table::FLOATS;
use super::{Case, Extent, Op, Values};
use crate::format::{CacheFormat, CacheLayout, RotaryTable, WeightFormat};
use crate::host::Host;
use crate::ops::{HeadNorm, RotaryArgs, RotaryPairs, RotaryPlan, RotarySpec, SubBuffer};
use crate::reference::{self, HeadCase, HeadNormCase, Judgement, OutputType};

/// The norm of a case that has one. Weights are about 0, so that the offset shows.
pub(super) const NORM: HeadNorm = HeadNorm { epsilon: 1e-6, offset: 1.0 };

/// Number of words before rows of positions, table, weights and caches in a strided case. None is a
/// multiple of a binding's alignment.
const BEFORE: [usize; 4] = [5, 6, 3, 12];

/// The numbers of a case.
struct Data {
    x: Vec<f32>,
    /// Position and slot of each row.
    rows: Vec<[u32; 2]>,
    table: Vec<[f32; 2]>,
    /// The weights of the norms of queries and of keys.
    weights: [Vec<f32>; 2],
}

pub(super) async fn run(host: &Host, case: &Case, op: &Rotary) -> Result<Outcome, Trouble> {
    let text = |e: &dyn std::error::Error| e.to_string();
    let spec = spec(case, op);
    let plan = RotaryPlan::new(host.kernels(), &spec).await;
    let plan = plan.map_err(|error| Trouble::of(case, &error))?;
    let layout = *plan.cache_layout();
    let data = numbers(case, &spec)?;

    let before = if case.strided { BEFORE } else { [0; 4] };
    let [rows_at, table_at, weights_at, cache_at] = before;
    let after =
        |at: usize, words: &[u32]| [&vec![SENTINEL; at][..], words, &[SENTINEL; 4]].concat();
    let x_rows = Rows {
        float: case.activations,
        offset: if case.strided { 6 } else { 0 },
        stride: spec.x_stride as usize,
        k: case.k,
    };
    let q_rows = Rows {
        float: case.output,
        offset: if case.strided { 10 } else { 0 },
        stride: spec.q_stride as usize,
        k: op.heads * op.head_dim,
    };
    let max_m = spec.max_m as usize;
    let mut rows = vec![[SENTINEL; 4]; max_m];
    for (row, &[position, slot]) in rows.iter_mut().zip(&data.rows) {
        row[..2].copy_from_slice(&[position, slot]);
    }
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    let x = host.storage_async(&x_rows.lay(max_m, &data.x)).await.map_err(|e| text(&e))?;
    let rows = host.storage_async(&after(rows_at, rows.as_flattened())).await;
    let rows = rows.map_err(|e| text(&e))?;
    let table = host.storage_async(&after(table_at, &bits(data.table.as_flattened()))).await;
    let table = table.map_err(|e| text(&e))?;
    let mut weights = Vec::new();
    for values in &data.weights {
        let words = after(weights_at, &bits(values));
        weights.push(host.storage_async(&words).await.map_err(|e| text(&e))?);
    }
    let blank = vec![SENTINEL; q_rows.words(max_m)];
    let q = host.storage_async(&blank).await.map_err(|e| text(&e))?;
    let blank = after(cache_at, &vec![SENTINEL; layout.words]);
    let mut caches = Vec::new();
    for _ in 0..2 {
        caches.push(host.storage_async(&blank).await.map_err(|e| text(&e))?);
    }
    let at = |buffer, words: usize| SubBuffer { buffer, offset: 4 * words as u64 };
    let norm =
        |index: usize, planned| (op.norm && planned).then(|| at(&weights[index], weights_at));
    let (queries, keys) = (op.heads > 0, op.kv_heads > 0);
    let bound = plan
        .bind(RotaryArgs {
            activations: SubBuffer { buffer: &x, offset: x_rows.bytes() },
            rows: at(&rows, rows_at),
            angles: (op.rotary_dim > 0).then(|| at(&table, table_at)),
            query_norm: norm(0, queries),
            key_norm: norm(1, keys),
            queries: queries.then_some(SubBuffer { buffer: &q, offset: q_rows.bytes() }),
            keys: keys.then(|| at(&caches[0], cache_at)),
            values: keys.then(|| at(&caches[1], cache_at)),
        })
        .await
        .map_err(|e| text(&e))?;
    let mut recorded = Ok(());
    host.submit_async(|pass| recorded = bound.record(pass, case.m as u32))
        .await
        .map_err(|e| text(&e))?;
    recorded.map_err(|e| text(&e))?;

    let got = host.read_async(&q, 0, q_rows.words(max_m)).await.map_err(|e| text(&e))?;
    let mut judged = Judgement::default();
    let got = q_rows.take(&got, case.m)?;
    let d = op.head_dim;
    for (index, got) in got.chunks(d.max(1)).enumerate() {
        let (row, head) = (index / op.heads.max(1), index % op.heads.max(1));
        let expected = expected(op, &data, row, head, output(case.output))?;
        let verdict = reference::check_head(&expected, got).map_err(|e| text(&e))?;
        judged = judged.and(named(verdict, row, "query", head));
    }
    for (index, cache) in caches.iter().enumerate() {
        let got = host.read_async(cache, 0, blank.len()).await.map_err(|e| text(&e))?;
        judged = judged.and(check_cache(op, &data, &layout, index, (&got, cache_at))?);
    }
    Ok(Outcome {
        kernel: spec.shader(host.kernels().caps()).id,
        error_over_bound: ErrorOverBound::Ratio(judged.error_over_bound),
        fault: judged.fault,
    })
}

/// Checks a cache: of keys (0) or values (1). Every word that no row wrote must still be a sentinel.
fn check_cache(
    op: &Rotary,
    data: &Data,
    layout: &CacheLayout,
    which: usize,
    (got, at): (&[u32], usize),
) -> Result<Judgement, String> {
    let (name, first) = [("key", op.heads), ("value", op.heads + op.kv_heads)][which];
    let mut rest = got.to_vec();
    let mut judged = Judgement::default();
    let words = (op.head_dim * op.cache.bits()).div_ceil(32);
    for (row, &[_, slot]) in data.rows.iter().enumerate() {
        let slot = slot as usize;
        // Heads without columns have nothing to write, not even a scale.
        if slot >= layout.slots || op.head_dim == 0 {
            continue;
        }
        for head in 0..op.kv_heads {
            let start = at + layout.row_at(head, slot);
            let scale_at = op.cache.has_scales().then(|| at + layout.scale_at(head, slot));
            let expected = expected(op, data, row, first + head, OutputType::F32)?;
            let scale = scale_at.map(|at| got[at]);
            let numbers = &got[start..][..words];
            let verdict = reference::check_cached_head(op.cache, &expected, numbers, scale);
            judged = judged.and(named(verdict.map_err(|e| e.to_string())?, row, name, head));
            rest[start..][..words].fill(SENTINEL);
            scale_at.into_iter().for_each(|at| rest[at] = SENTINEL);
        }
    }
    if let Some(word) = rest.iter().position(|&word| word != SENTINEL) {
        let fault =
            format!("word {word} of the cache of {name}s, which no row owns, was overwritten");
        judged = judged.and(Judgement { fault: Some(fault), error_over_bound: f64::INFINITY });
    }
    Ok(judged)
}

fn named(judged: Judgement, row: usize, name: &str, head: usize) -> Judgement {
    let fault = judged.fault.map(|fault| format!("row {row}, {name} head {head}: {fault}"));
    Judgement { fault, ..judged }
}

/// Returns what a head of a row must be.
fn expected(
    op: &Rotary,
    data: &Data,
    row: usize,
    head: usize,
    output: OutputType,
) -> Result<Vec<reference::Expected>, String> {
    let (d, pairs) = (op.head_dim, op.rotary_dim / 2);
    let is_value = head >= op.heads + op.kv_heads;
    let all = op.heads + 2 * op.kv_heads;
    let position = data.rows[row][0] as usize;
    let weights = &data.weights[usize::from(head >= op.heads)];
    let norm = HeadNormCase { weights, epsilon: NORM.epsilon, offset: NORM.offset };
    let case = HeadCase {
        x: &data.x[(row * all + head) * d..][..d],
        norm: (op.norm && !is_value).then_some(norm),
        angles: if is_value { &[] } else { &data.table[position * pairs..][..pairs] },
        adjacent: op.pairs == RotaryPairs::Adjacent,
        transform: op.hadamard,
    };
    reference::rotary_head(&case, output).map_err(|e| e.to_string())
}

fn numbers(case: &Case, spec: &RotarySpec) -> Result<Data, String> {
    let mut random = Random::new(case.seed());
    let x = data::rows(case, &mut random);
    let mut slots: Vec<u32> = (0..spec.slots).collect();
    for at in (1..slots.len()).rev() {
        slots.swap(at, random.below(at as u64 + 1) as usize);
    }
    // A slot that no row has, so that nothing covers up what is written past the cache: `slots + free` of
    // a head has the place of `free` of the next head.
    let free = if case.m.is_multiple_of(2) { 0 } else { slots[case.m] };
    slots.retain(|&slot| slot != free);
    let mut rows: Vec<[u32; 2]> = slots
        .into_iter()
        .take(case.m)
        .map(|slot| [random.below(spec.positions.into()) as u32, slot])
        .collect();
    // A slot that is not there must not be written, wherever it would be.
    if let (true, [.., last]) = (case.strided, &mut rows[..]) {
        last[1] = spec.slots + free;
    }
    let table = RotaryTable::new(10_000.0, spec.rotary_dim as usize).with_attention_factor(1.25);
    let table = table.pairs(spec.positions as usize).map_err(|e| e.to_string())?;
    let mut weights = || {
        let values = data::values(Values::Normal, spec.head_dim as usize, &mut random);
        values.iter().map(|v| v / 8.0).collect()
    };
    let weights = [weights(), weights()];
    Ok(Data { x, rows, table, weights })
}

/// A strided case has gaps between rows, and a plan for more rows than are recorded.
fn spec(case: &Case, op: &Rotary) -> RotarySpec {
    let more = u32::from(case.strided) * 2;
    let [heads, kv_heads, head_dim, rotary_dim, m] =
        [op.heads, op.kv_heads, op.head_dim, op.rotary_dim, case.m].map(|number| number as u32);
    let mut spec = RotarySpec::new(m + more, heads, kv_heads, head_dim)
        .with_rotation(op.pairs, rotary_dim, 2 * m + 9)
        .with_cache(op.cache, m + 3)
        .with_hadamard(op.hadamard, op.hadamard)
        .with_activations(case.activations)
        .with_output(case.output);
    spec.norm = op.norm.then_some(NORM);
    let (x, q) = (spec.x_stride + 2 * more, spec.q_stride + more);
    spec.with_x_stride(x).with_q_stride(q)
}

/// Columns of a head.
const HEAD_DIMS: [usize; 11] = [64, 32, 80, 96, 112, 128, 256, 36, 4, 48, 0];

/// Heads of queries, and of keys and values.
const HEADS: [(usize, usize); 6] = [(3, 1), (4, 2), (0, 2), (1, 1), (5, 0), (9, 3)];

/// Adds cases of preparing queries, keys and values: every format of caches, type, number of columns and
/// pattern. Heads, rows, pairs, partial rotations, norms, transforms and strides alternate.
pub(super) fn rotating(extent: Extent, cases: &mut Vec<Case>) {
    let patterns = Values::ALL.into_iter().chain(Values::ODD);
    for (i, cache) in CacheFormat::ALL.into_iter().enumerate() {
        for (j, activations) in FLOATS.into_iter().enumerate() {
            for (a, head_dim) in HEAD_DIMS.into_iter().enumerate() {
                for (b, values) in patterns.clone().enumerate() {
                    let turn = 5 * i + 3 * j + 7 * a + b;
                    // Quick: two patterns of every third number of columns.
                    let quick = (a + i + j) % 3 == 0 && (b + a + i) % 4 == 0;
                    if extent == Extent::Quick && !quick {
                        continue;
                    }
                    let (heads, kv_heads) = HEADS[(turn / 2 + b) % HEADS.len()];
                    let op = Rotary {
                        heads,
                        kv_heads,
                        head_dim,
                        rotary_dim: match turn % 5 {
                            0 => 0,
                            1 => head_dim / 8 * 4,
                            2 => head_dim.min(20),
                            _ => head_dim,
                        },
                        pairs: [RotaryPairs::HalfSplit, RotaryPairs::Adjacent][turn / 3 % 2],
                        cache,
                        norm: (turn + a) % 3 == 0,
                        hadamard: (turn + b) % 4 == 1,
                    };
                    let types = (activations, FLOATS[(turn / 4 + a) % 2]);
                    let shape = ([1, 5, 2, 33, 0, 7][turn % 6], (heads + 2 * kv_heads) * head_dim);
                    let mut case =
                        Case::of_x(Op::Rotary(op), WeightFormat::f32(), types, shape, values);
                    case.strided = (turn + i) % 2 == 0;
                    cases.push(case);
                }
            }
        }
    }
}
