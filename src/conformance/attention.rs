//! Cases of attention. Each runs with five patterns:
//!
//! - `values`: the pattern of the case, judged by the bound of the reference;
//! - `single`: every row sees one slot, so that its values must come out as they are, bit for bit;
//! - `mean`: all scores are equal, so that results are means, off by one division and product;
//! - `select`: one slot matches a query far better than all others, so that keys of another slot or head
//!   select other values;
//! - `poison`: one slot is NaN, and rows that do not see it must be what they were. It runs twice, with a slot
//!   at the end of what a row sees, and with one at its start.
//!
//! Slots that no row sees and padding are NaN in all of them.

use super::case::{AttentionOf, Case, Sight, Values};
use super::data::{self, Random, rounded};
use super::matmul::{SENTINEL, put};
use super::report::{ErrorOverBound, Outcome, Trouble};
use super::rows::Rows;
use crate::format::{CacheFormat, CacheLayout};
use crate::host::Host;
use crate::ops::{AttentionArgs, AttentionPlan, AttentionSpec, FloatType, SubBuffer};
use crate::reference::{
    self, AttentionCase, Expected, OutputType, UNIT, check, f16_to_f64, f64_to_f16,
};

/// The reach of the bias: less than most caches have slots.
const REACH: u32 = 20;

/// The soft cap of scores.
const CAP: f32 = 3.0;

/// What a slot of a head of a cache holds: numbers, or codes and their scale.
struct Held {
    numbers: Vec<f32>,
    scale: f32,
}

/// A cache under construction.
struct Cache {
    layout: CacheLayout,
    words: Vec<u32>,
}

impl Cache {
    /// Creates a cache that is NaN everywhere.
    fn new(layout: CacheLayout) -> Self {
        Self { layout, words: vec![u32::MAX; layout.words] }
    }

    fn store(&mut self, head: usize, slot: usize, held: &Held) {
        let (layout, at) = (self.layout, self.layout.row_at(head, slot));
        let row = &mut self.words[at..][..layout.row_words];
        let field = |row: &mut [u32], word: usize, bits: u32, shift: usize, mask: u32| {
            row[word] = row[word] & !(mask << shift) | bits << shift;
        };
        for (column, &number) in held.numbers.iter().enumerate() {
            match layout.format {
                CacheFormat::F32 => put(row, FloatType::F32, column, number),
                CacheFormat::F16 => put(row, FloatType::F16, column, number),
                CacheFormat::Int8 => {
                    let code = u32::from(number as i8 as u8);
                    field(row, column / 4, code, 8 * (column % 4), 0xff);
                }
                CacheFormat::Int4 => {
                    let shift = 8 * (column % 4) + 4 * (column / 4 % 2);
                    field(row, column / 8, (number as i32 + 8) as u32, shift, 15);
                }
            }
        }
        if layout.format.has_scales() {
            self.words[layout.scale_at(head, slot)] = held.scale.to_bits();
        }
    }

    /// Makes a slot NaN.
    fn poison(&mut self, slot: usize) {
        let layout = self.layout;
        for head in 0..layout.heads {
            self.words[layout.row_at(head, slot)..][..layout.row_words].fill(u32::MAX);
            if layout.format.has_scales() {
                self.words[layout.scale_at(head, slot)] = u32::MAX;
            }
        }
    }
}

/// What one pattern runs with.
struct Input {
    name: &'static str,
    rows: Vec<[u32; 4]>,
    q: Vec<f32>,
    keys: Vec<u32>,
    values: Vec<u32>,
    bias: Option<Vec<f32>>,
    /// What must come out.
    expected: Vec<Expected>,
    /// Rows whose results do not matter.
    ignored: Vec<bool>,
}

pub(super) async fn run(host: &Host, case: &Case, of: &AttentionOf) -> Result<Outcome, Trouble> {
    let spec = spec(case, of);
    let plan = AttentionPlan::new(host.kernels(), &spec).await;
    let plan = plan.map_err(|error| Trouble::of(case, &error))?;
    let mut random = Random::new(case.seed());
    let maker = Maker { case, of, layout: *plan.layout() };
    let (mut worst, mut fault) = (0.0f64, None);
    for input in maker.inputs(&mut random)? {
        let got = device(host, case, &plan, &input).await?;
        let row = spec.heads as usize * case.k;
        let all = input.expected.iter().zip(&got).enumerate();
        for (at, (expected, &got)) in all.filter(|(at, _)| !input.ignored[at / row.max(1)]) {
            let verdict = check(expected, got);
            worst = worst.max(verdict.error_over_bound);
            if !verdict.passes() && fault.is_none() {
                let (name, column, at) = (input.name, at % row, at / row);
                let Expected { value, bound, .. } = expected;
                fault = Some(format!(
                    "{name}: y[{at}, {column}] is {got:e}, must be {value:e} within {bound:e}"
                ));
            }
        }
    }
    let kernel = spec.shader(host.kernels().caps(), case.m as u32).id;
    Ok(Outcome { kernel, error_over_bound: ErrorOverBound::Ratio(worst), fault })
}

/// The spec of a case. A strided one has gaps between rows, and is planned for more rows than are
/// recorded.
fn spec(case: &Case, of: &AttentionOf) -> AttentionSpec {
    let more = if case.strided { 2 } else { 0 };
    let (heads, kv_heads) = (of.heads.into(), of.kv_heads.into());
    let rows = case.m as u32 + more;
    let mut spec = AttentionSpec::new(rows, heads, kv_heads, case.k as u32, of.slots)
        .with_cache(of.cache)
        .with_types(case.activations, case.output);
    if case.strided {
        spec = spec.clone().with_strides(spec.q_stride + 6, spec.y_stride + 2);
    }
    if of.cap {
        spec = spec.with_soft_cap(CAP);
    }
    if of.bias {
        spec = spec.with_bias(REACH);
    }
    if of.hadamard {
        spec = spec.with_inverse_hadamard();
    }
    if of.plain { spec.plain() } else { spec }
}

/// Runs one pattern, and returns the rows of results.
async fn device(
    host: &Host,
    case: &Case,
    plan: &AttentionPlan,
    input: &Input,
) -> Result<Vec<f32>, Trouble> {
    let text = |e: &dyn std::error::Error| e.to_string();
    let (spec, most) = (plan.spec(), plan.spec().max_m as usize);
    let k = spec.heads as usize * case.k;
    let offset = |at: usize| if case.strided { at } else { 0 };
    let q_rows = Rows { float: spec.queries, offset: offset(6), stride: spec.q_stride as usize, k };
    let y_rows = Rows { float: spec.output, offset: offset(10), stride: spec.y_stride as usize, k };
    // Rows past those that are recorded would see everything.
    let mut rows = vec![[0, 0, 0, u32::MAX]; most];
    rows[..case.m].copy_from_slice(&input.rows);
    let (before, after) = (offset(4), 8);
    let around =
        |words: &[u32]| [&vec![SENTINEL; before][..], words, &vec![SENTINEL; after][..]].concat();
    let scratch_words = plan.scratch_bytes().div_ceil(4) as usize;
    let words = [
        q_rows.lay(most, &input.q),
        around(&input.keys),
        around(&input.values),
        around(bytemuck::cast_slice(&rows)),
        around(bytemuck::cast_slice(input.bias.as_deref().unwrap_or_default())),
        y_rows.lay(most, &[]),
        around(&vec![SENTINEL; scratch_words.max(4)]),
    ];
    let mut buffers = Vec::with_capacity(words.len());
    for words in &words {
        buffers.push(host.storage_async(words).await.map_err(|e| text(&e))?);
    }
    let at = |index: usize, offset: u64| SubBuffer { buffer: &buffers[index], offset };
    let skip = 4 * before as u64;
    let bound = plan
        .bind(AttentionArgs {
            queries: at(0, q_rows.bytes()),
            keys: at(1, skip),
            values: at(2, skip),
            rows: at(3, skip),
            bias: input.bias.as_ref().map(|_| at(4, skip)),
            output: at(5, y_rows.bytes()),
            scratch: case.strided.then(|| at(6, skip)),
        })
        .await
        .map_err(|e| text(&e))?;
    let mut recorded = Ok(());
    host.submit_async(|pass| recorded = bound.record(pass, case.m as u32))
        .await
        .map_err(|e| text(&e))?;
    recorded.map_err(|e| text(&e))?;
    let scratch = host.read_async(&buffers[6], 0, words[6].len()).await.map_err(|e| text(&e))?;
    let inside = before..before + scratch_words;
    let outside = |(at, word): (usize, &u32)| !inside.contains(&at) && *word != SENTINEL;
    if let Some(at) = scratch.iter().enumerate().position(outside) {
        return Err(format!("word {at}, which is outside of the scratch, was overwritten").into());
    }
    let got = host.read_async(&buffers[5], 0, words[5].len()).await.map_err(|e| text(&e))?;
    Ok(y_rows.take(&got, case.m)?)
}

/// Makes the inputs of a case.
struct Maker<'a> {
    case: &'a Case,
    of: &'a AttentionOf,
    layout: CacheLayout,
}

impl Maker<'_> {
    fn inputs(&self, random: &mut Random) -> Result<Vec<Input>, String> {
        let mut inputs = vec![self.values(random)?, self.single(random)?, self.mean(random)?];
        // A cap makes scores equal that are large.
        if !self.of.cap {
            inputs.push(self.select(random)?);
        }
        inputs.extend(self.poison(random, false)?);
        inputs.extend(self.poison(random, true)?);
        Ok(inputs)
    }

    /// Returns what the rows of a case see.
    fn rows(&self, random: &mut Random) -> Vec<[u32; 4]> {
        let (m, slots) = (self.case.m as u32, self.of.slots);
        let base = slots.saturating_sub(m);
        let mut sentence = 0..0;
        (0..m)
            .map(|row| {
                let end = (base + row + 1).min(slots);
                let any = random.below(u64::from(slots) + 1) as u32;
                let [first, end] = match self.of.sight {
                    Sight::Causal => [0, end],
                    Sight::Window => [end.saturating_sub((slots / 3).max(5)), end],
                    Sight::Packed => {
                        if row >= sentence.end {
                            sentence = row..row + 1 + random.below(7) as u32;
                        }
                        [sentence.start.min(slots), sentence.end.min(m).min(slots)]
                    }
                    Sight::Odd => match row % 6 {
                        0 => [any, u32::MAX],
                        1 => [any, any],
                        2 => [any.min(slots - 1), any.min(slots - 1) + 1],
                        3 => [any, any / 2],
                        4 => [slots + 5, u32::MAX],
                        _ => [any / 2, any],
                    },
                };
                [row, end.min(slots).saturating_sub(1), first, end]
            })
            .collect()
    }

    /// Returns the slots that some row sees.
    fn seen(&self, rows: &[[u32; 4]]) -> Vec<usize> {
        let sees = |slot: u32| rows.iter().any(|row| (row[2]..row[3]).contains(&slot));
        (0..self.of.slots).filter(|&slot| sees(slot)).map(|slot| slot as usize).collect()
    }

    /// Fills a cache with what `held` gives for a head and a slot that some row sees.
    fn cache(&self, rows: &[[u32; 4]], mut held: impl FnMut(usize, usize) -> Held) -> Cache {
        let mut cache = Cache::new(self.layout);
        for slot in self.seen(rows) {
            for head in 0..usize::from(self.of.kv_heads) {
                cache.store(head, slot, &held(head, slot));
            }
        }
        cache
    }

    /// Returns a scale that differs between neighboring slots and heads.
    fn scale(head: usize, slot: usize) -> f32 {
        [1.0, 0.25, 2.0][(slot + 2 * head) % 3]
    }

    /// Returns values of the pattern of the case.
    fn pattern(&self, head: usize, slot: usize, random: &mut Random) -> Held {
        let scale = Self::scale(head, slot);
        let code = |random: &mut Random, most: u64| random.below(2 * most + 1) as f32 - most as f32;
        let (numbers, unit) = match self.of.cache {
            CacheFormat::F32 => (data::values(self.case.values, self.case.k, random), 1.0),
            CacheFormat::F16 => (data::values(self.case.values, self.case.k, random), 1.0),
            CacheFormat::Int8 => ((0..self.case.k).map(|_| code(random, 127)).collect(), 0.013),
            CacheFormat::Int4 => ((0..self.case.k).map(|_| code(random, 7)).collect(), 0.21),
        };
        Held { numbers, scale: scale * unit }
    }

    /// Returns small integers, or with scales small multiples of 1/4.
    fn integers(&self, head: usize, slot: usize, random: &mut Random) -> Held {
        let numbers = (0..self.case.k).map(|_| random.below(15) as f32 - 7.0).collect();
        Held { numbers, scale: Self::scale(head, slot) }
    }

    fn q(&self, pattern: Values, random: &mut Random) -> Vec<f32> {
        let count = self.case.m * usize::from(self.of.heads) * self.case.k;
        let values = data::values(pattern, count, random);
        values.into_iter().map(|v| rounded(self.case.activations, v)).collect()
    }

    fn bias(&self, mut value: impl FnMut() -> f32) -> Option<Vec<f32>> {
        let count = usize::from(self.of.heads) * (2 * REACH as usize + 1);
        self.of.bias.then(|| (0..count).map(|_| value()).collect())
    }

    fn output(&self) -> OutputType {
        match self.case.output {
            FloatType::F16 => OutputType::F16,
            _ => OutputType::F32,
        }
    }

    /// Completes an input by what the reference expects.
    fn judged(&self, name: &'static str, input: Input) -> Result<Input, String> {
        let (case, of) = (self.case, self.of);
        let expected = reference::attention(&AttentionCase {
            q: &input.q,
            heads: of.heads.into(),
            kv_heads: of.kv_heads.into(),
            head_dim: case.k,
            slots: of.slots as usize,
            format: of.cache,
            keys: &input.keys,
            values: &input.values,
            rows: &input.rows,
            scale: spec(case, of).scale,
            soft_cap: if of.cap { CAP } else { 0.0 },
            bias: input.bias.as_deref().map(|bias| (bias, REACH as usize)),
            hadamard: of.hadamard,
            output: self.output(),
        });
        Ok(Input { name, expected: expected.map_err(|e| e.to_string())?, ..input })
    }

    fn input(&self, rows: Vec<[u32; 4]>, q: Vec<f32>, keys: Cache, values: Cache) -> Input {
        let ignored = vec![false; rows.len()];
        let (keys, values, expected) = (keys.words, values.words, Vec::new());
        Input { name: "", rows, q, keys, values, bias: None, expected, ignored }
    }

    fn values(&self, random: &mut Random) -> Result<Input, String> {
        let rows = self.rows(random);
        let keys = self.cache(&rows, |head, slot| self.pattern(head, slot, random));
        let values = self.cache(&rows, |head, slot| self.pattern(head, slot, random));
        let q = self.q(self.case.values, random);
        let bias = self.bias(|| random.below(1000) as f32 / 250.0 - 2.0);
        self.judged("values", Input { bias, ..self.input(rows, q, keys, values) })
    }

    /// Replaces what rows see by one slot each.
    fn single(&self, random: &mut Random) -> Result<Input, String> {
        let mut rows = self.rows(random);
        for row in &mut rows {
            let slot = random.below(self.of.slots.into()) as u32;
            (row[2], row[3]) = (slot, slot + 1);
        }
        let keys = self.cache(&rows, |head, slot| self.pattern(head, slot, random));
        let mut all = std::collections::HashMap::new();
        let values = self.cache(&rows, |head, slot| {
            let floats = !self.of.cache.has_scales();
            let held = if floats && !self.of.hadamard {
                self.pattern(head, slot, random)
            } else {
                self.integers(head, slot, random)
            };
            all.insert((head, slot), (held.numbers.clone(), if floats { 1.0 } else { held.scale }));
            held
        });
        let q = self.q(Values::Normal, random);
        let bias = self.bias(|| random.below(1000) as f32 / 250.0 - 2.0);
        let mut input =
            self.judged("single", Input { bias, ..self.input(rows, q, keys, values) })?;
        if self.of.hadamard {
            return Ok(input);
        }
        let group = usize::from(self.of.heads / self.of.kv_heads.max(1)).max(1);
        for (at, expected) in input.expected.iter_mut().enumerate() {
            let (column, head) = (at % self.case.k, at / self.case.k);
            let (row, head) =
                (head / usize::from(self.of.heads), head % usize::from(self.of.heads));
            let slot = input.rows[row][2] as usize;
            let Some((numbers, scale)) = all.get(&(head / group, slot)) else { continue };
            let stored = match self.of.cache {
                CacheFormat::F16 => rounded(FloatType::F16, numbers[column]),
                _ => numbers[column],
            };
            let value = f64::from(stored * scale);
            let value = match self.output() {
                OutputType::F16 => f16_to_f64(f64_to_f16(value)),
                OutputType::F32 => value,
            };
            *expected = Expected { value, bound: 0.0, overflow: false };
        }
        Ok(input)
    }

    /// Queries of zeros, whose scores are all equal.
    fn mean(&self, random: &mut Random) -> Result<Input, String> {
        let rows = self.rows(random);
        let keys = self.cache(&rows, |head, slot| self.pattern(head, slot, random));
        let values = self.cache(&rows, |head, slot| self.integers(head, slot, random));
        let q = vec![0.0; self.case.m * usize::from(self.of.heads) * self.case.k];
        let bias = self.bias(|| 0.75);
        let mut input = self.judged("mean", Input { bias, ..self.input(rows, q, keys, values) })?;
        if !self.of.hadamard {
            for expected in &mut input.expected {
                // Sums of small integers are exact, so a reciprocal and a product are left.
                // The f64 mean of integers whose sum is 0 is only nearly 0.
                let value = if expected.value.abs() < 1e-9 { 0.0 } else { expected.value };
                *expected = Expected::new(value, 4.0 * UNIT * value.abs(), self.output());
            }
        }
        Ok(input)
    }

    /// Keys of random signs, and queries with the signs of one of them.
    fn select(&self, random: &mut Random) -> Result<Input, String> {
        let (d, heads) = (self.case.k, usize::from(self.of.heads));
        let rows = self.rows(random);
        let mut signs = std::collections::HashMap::new();
        let keys = self.cache(&rows, |head, slot| {
            let numbers: Vec<f32> = (0..d).map(|_| [4.0, -4.0][random.below(2) as usize]).collect();
            signs.insert((head, slot), numbers.clone());
            Held { numbers, scale: 1.0 }
        });
        let values = self.cache(&rows, |head, slot| self.integers(head, slot, random));
        let group = heads / usize::from(self.of.kv_heads.max(1)).max(1);
        let mut q = Vec::with_capacity(self.case.m * heads * d);
        for row in &rows {
            let end = row[3].min(self.of.slots);
            for head in 0..heads {
                let slot = row[2] + random.below(end.saturating_sub(row[2]).into()) as u32;
                match signs.get(&(head / group.max(1), slot as usize)) {
                    Some(numbers) => q.extend(numbers.iter().map(|v| 2.0 * v)),
                    None => q.extend(std::iter::repeat_n(1.0, d)),
                }
            }
        }
        let bias = self.bias(|| random.below(1000) as f32 / 500.0 - 1.0);
        self.judged("select", Input { bias, ..self.input(rows, q, keys, values) })
    }

    /// The pattern of the case with one slot that is NaN: the first one of a row (the first that will do), or
    /// the last one of a row (the last that will).
    fn poison(&self, random: &mut Random, last: bool) -> Result<Option<Input>, String> {
        let rows = self.rows(random);
        let sees = |row: &[u32; 4], slot: u32| (row[2]..row[3].min(self.of.slots)).contains(&slot);
        let seeing = rows.iter().filter(|row| sees(row, row[2]));
        let hurts = |slot: &u32| rows.iter().any(|row| !sees(row, *slot) && sees(row, row[2]));
        let slot = if last {
            seeing.map(|row| row[3].min(self.of.slots) - 1).rfind(hurts)
        } else {
            seeing.map(|row| row[2]).find(hurts)
        };
        let Some(slot) = slot else { return Ok(None) };
        let mut keys = self.cache(&rows, |head, slot| self.pattern(head, slot, random));
        let mut values = self.cache(&rows, |head, slot| self.pattern(head, slot, random));
        keys.poison(slot as usize);
        values.poison(slot as usize);
        let q = self.q(self.case.values, random);
        let ignored: Vec<bool> = rows.iter().map(|row| sees(row, slot)).collect();
        let bias = self.bias(|| random.below(1000) as f32 / 250.0 - 2.0);
        let real = self.input(rows.clone(), q, keys, values);
        // The reference takes rows that see the slot for rows that see nothing.
        let mut judged = rows.clone();
        for (row, _) in judged.iter_mut().zip(&ignored).filter(|(_, ignored)| **ignored) {
            row[3] = row[2];
        }
        let input = self.judged("poison", Input { rows: judged, bias, ignored, ..real })?;
        Ok(Some(Input { rows, ..input }))
    }
}
