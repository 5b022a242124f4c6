//! Cases of a mixture of experts: choosing them, multiplying with them, adding up what they made.

use super::data::{self, Random};
use super::epilogue::{finished, old_value};
use super::matmul::{SENTINEL, exact_sums, how, judge, output, put};
use super::report::{ErrorOverBound, Outcome, Trouble};
use super::rows::Rows;
use super::table::{FLOATS, X_SHAPES, group};
use super::{Case, Extent, Op, Values};
use crate::format::{ActivationFunction, Granularity, PackedWeights, WeightFormat};
use crate::host::Host;
use crate::ops::{
    CombineArgs, CombinePlan, CombineSpec, Epilogue, Experts, FloatType, MatmulArgs, MatmulPlan,
    MatmulSpec, RouteArgs, RoutePlan, RouteSpec, Schedule, SubBuffer,
};
use crate::reference::{self, Expected, MatmulCase, OutputType};

/// The number of words before the data of a strided case; a list starts at a multiple of two words.
const BEFORE: usize = 6;

fn text(error: &dyn std::error::Error) -> Trouble {
    Trouble::Failed(error.to_string())
}

/// Lays out the rows of X or Y of a case: in a strided one they start later and have gaps.
fn laid(case: &Case, float: FloatType, k: usize) -> Rows {
    let stride = float.packed(k as u32) as usize;
    match case.strided {
        true => Rows { float, offset: 2 * BEFORE, stride: stride + 4, k },
        false => Rows { float, offset: 0, stride, k },
    }
}

/// Chooses experts for rows of `k` logits: experts, places and lists must be right, word by word, and
/// weights within their bounds.
pub(super) async fn route(
    host: &Host,
    case: &Case,
    (top, unit, of_all): (u32, u32, bool),
) -> Result<Outcome, Trouble> {
    let mut random = Random::new(case.seed());
    let logits = data::values(case.values, case.m * case.k, &mut random);
    let logits: Vec<f32> =
        logits.into_iter().map(|v| data::rounded(case.activations, 2.0 * v)).collect();
    let rows = laid(case, case.activations, case.k);
    let extra = if case.strided { 3 } else { 0 };
    let at = if case.strided { BEFORE } else { 0 };
    let mut spec = RouteSpec::new(case.m as u32 + extra, case.k as u32, top)
        .with_unit(unit)
        .with_logits(case.activations)
        .with_stride(rows.stride as u32);
    spec.weights_of_all = of_all;
    let plan = RoutePlan::new(host.kernels(), &spec).await;
    let plan = plan.map_err(|error| Trouble::of(case, &error))?;
    let x = rows.lay(case.m + extra as usize, &logits);
    let x = host.storage_async(&x).await.map_err(|e| text(&e))?;
    let mut list = vec![SENTINEL; at + spec.list_bytes() as usize / 4 + 8];
    let mut choices = vec![SENTINEL; at + spec.choices_bytes() as usize / 4 + 8];
    let list_buffer = host.storage_async(&list).await.map_err(|e| text(&e))?;
    let choices_buffer = host.storage_async(&choices).await.map_err(|e| text(&e))?;
    let offset = 4 * at as u64;
    let bound = plan
        .bind(RouteArgs {
            logits: SubBuffer { buffer: &x, offset: rows.bytes() },
            list: SubBuffer { buffer: &list_buffer, offset },
            choices: SubBuffer { buffer: &choices_buffer, offset },
        })
        .await
        .map_err(|e| text(&e))?;
    let mut recorded = Ok(());
    host.submit_async(|pass| recorded = bound.record(pass, case.m as u32))
        .await
        .map_err(|e| text(&e))?;
    recorded.map_err(|e| text(&e))?;

    // The runs of the experts, by the definition.
    let chosen: Vec<_> = logits
        .chunks(case.k.max(1))
        .map(|row| reference::route(row, top as usize, of_all))
        .collect();
    let mut entries: Vec<[u32; 2]> = Vec::new();
    for expert in 0..case.k {
        for (row, chosen) in chosen.iter().enumerate() {
            for (choice, _) in chosen.iter().enumerate().filter(|(_, (e, _))| *e == expert) {
                let word = at + 3 * (row * top as usize + choice);
                choices[word] = expert as u32;
                choices[word + 1] = entries.len() as u32;
                entries.push([row as u32, expert as u32]);
            }
        }
        while !entries.len().is_multiple_of(unit as usize) {
            entries.push([0, Experts::NO_EXPERT]);
        }
    }
    let whole = if top > 0 { spec.list_rows(case.m as u32) as usize } else { 0 };
    let mut fault = (entries.len() > whole)
        .then(|| format!("the list has {whole} rows, and {} are needed", entries.len()));
    entries.resize(whole, [0, Experts::NO_EXPERT]);
    for (to, from) in list[at..].chunks_exact_mut(2).zip(&entries) {
        to.copy_from_slice(from);
    }
    let got = host.read_async(&list_buffer, 0, list.len()).await.map_err(|e| text(&e))?;
    fault = fault.or_else(|| first_difference("the list", &got, &list));
    let got = host.read_async(&choices_buffer, 0, choices.len()).await.map_err(|e| text(&e))?;
    let mut worst = 0.0f64;
    let weights = chosen.iter().flatten().enumerate();
    for (index, (_, want)) in weights {
        let word = at + 3 * index + 2;
        choices[word] = got[word];
        let verdict = reference::check(want, f32::from_bits(got[word]));
        worst = worst.max(verdict.error_over_bound);
        if !verdict.passes() && fault.is_none() {
            let (got, Expected { value, bound, .. }) = (f32::from_bits(got[word]), want);
            let (row, choice) = (index / top as usize, index % top as usize);
            fault = Some(format!(
                "row {row}, choice {choice}: the weight is {got}, must be {value} ± {bound:.3e}"
            ));
        }
    }
    fault = fault.or_else(|| first_difference("the choices", &got, &choices));
    let [shader, _] = spec.shaders();
    Ok(Outcome { kernel: shader.id, error_over_bound: ErrorOverBound::Ratio(worst), fault })
}

fn first_difference(what: &str, got: &[u32], want: &[u32]) -> Option<String> {
    let word = got.iter().zip(want).position(|(got, want)| got != want)?;
    Some(format!("word {word} of {what} is {:08x}, must be {:08x}", got[word], want[word]))
}

/// Adds up rows of a list by choices that are in no order.
pub(super) async fn combine(
    host: &Host,
    case: &Case,
    (top, add): (u32, bool),
) -> Result<Outcome, Trouble> {
    let mut random = Random::new(case.seed());
    let pairs = case.m * top as usize;
    let list_rows = pairs + 3;
    let x = data::activations(case, list_rows * case.k, &mut random);
    let (from, to) = (laid(case, case.activations, case.k), laid(case, case.output, case.k));
    let extra = if case.strided { 2 } else { 0 };
    let at = if case.strided { BEFORE } else { 0 };
    let mut spec = CombineSpec::new((case.m + extra) as u32, case.k as u32, top, list_rows as u32)
        .with_activations(case.activations)
        .with_output(case.output)
        .with_strides(from.stride as u32, to.stride as u32);
    spec.accumulate = add;
    let plan = CombinePlan::new(host.kernels(), &spec).await;
    let plan = plan.map_err(|error| Trouble::of(case, &error))?;
    let mut choices = vec![SENTINEL; at + spec.choices_bytes() as usize / 4 + 8];
    let weights = data::values(Values::Normal, pairs, &mut random);
    for (index, weight) in weights.iter().enumerate() {
        let place = random.below(list_rows as u64) as u32;
        choices[at + 3 * index..][..3].copy_from_slice(&[0, place, weight.to_bits()]);
    }
    let mut around = to.lay(case.m + extra, &[]);
    if add {
        for row in 0..case.m {
            for column in 0..case.k {
                let at = to.offset + row * to.stride + column;
                put(&mut around, case.output, at, old_value(row, column));
            }
        }
    }
    let source = from.lay(list_rows, &x);
    let source = host.storage_async(&source).await.map_err(|e| text(&e))?;
    let choices_buffer = host.storage_async(&choices).await.map_err(|e| text(&e))?;
    let y = host.storage_async(&around).await.map_err(|e| text(&e))?;
    let bound = plan
        .bind(CombineArgs {
            activations: SubBuffer { buffer: &source, offset: from.bytes() },
            choices: SubBuffer { buffer: &choices_buffer, offset: 4 * at as u64 },
            output: SubBuffer { buffer: &y, offset: to.bytes() },
        })
        .await
        .map_err(|e| text(&e))?;
    let mut recorded = Ok(());
    host.submit_async(|pass| recorded = bound.record(pass, case.m as u32))
        .await
        .map_err(|e| text(&e))?;
    recorded.map_err(|e| text(&e))?;
    let got = host.read_async(&y, 0, around.len()).await.map_err(|e| text(&e))?;
    let got = to.take(&got, case.m).map_err(Trouble::Failed)?;
    let kind = output(case.output);
    let expected: Vec<_> = (0..case.m * case.k)
        .map(|index| {
            let (row, column) = (index / case.k, index % case.k);
            let term = |choice: usize| {
                let index = row * top as usize + choice;
                let place = choices[at + 3 * index + 1] as usize;
                (weights[index], x[place * case.k + column])
            };
            let terms: Vec<_> = (0..top as usize).map(term).collect();
            reference::combine(&terms, add.then(|| old_value(row, column)), kind)
        })
        .collect();
    let (mut worst, mut fault) = (0.0, None);
    judge(case.k, "values", &got, &expected, &mut worst, &mut fault);
    let error_over_bound = ErrorOverBound::Ratio(worst);
    Ok(Outcome { kernel: spec.shader().id, error_over_bound, fault })
}

/// Multiplies rows of X with the matrices of the experts that a list names.
pub(super) async fn matmul(
    host: &Host,
    case: &Case,
    (count, unit): (u32, u32),
) -> Result<Outcome, Trouble> {
    let mut random = Random::new(case.seed());
    let x_rows = case.m / 2 + 3;
    let extra = if case.strided { 5 } else { 0 };
    let list = list(case.m, x_rows, count, unit, &mut random);
    let (from, to) =
        (laid(case, case.activations, case.k), laid(case, case.output, case.y_columns()));
    let experts = Experts { count, x_rows: x_rows as u32, unit };
    let mut spec =
        MatmulSpec::new((case.m + extra) as u32, case.n as u32, case.k as u32, case.format)
            .with_activations(case.activations)
            .with_output(case.output)
            .with_function(case.function)
            .with_epilogue(case.epilogue)
            .with_x_strides(from.stride as u32, 0)
            .with_y_strides(to.stride as u32, 0)
            .with_experts(experts);
    spec.code_textures = case.textures;
    let plan = MatmulPlan::new(host.kernels(), &spec, how(case)).await;
    let plan = plan.map_err(|error| Trouble::of(case, &error))?;
    let mut outcome = Outcome {
        kernel: plan.kernel(case.m as u32).name(),
        error_over_bound: ErrorOverBound::Ratio(0.0),
        fault: None,
    };
    // The matrices of all experts are one.
    let whole = Case { n: count as usize * case.n, ..case.clone() };
    let packed = data::weights(&whole, &mut random).map_err(|e| text(&e))?;
    let x = data::activations(case, x_rows * case.k, &mut random);
    let run = Run { host, case, plan: &plan, list: &list, from, to };
    let mut worst = 0.0;
    let reference = run.gathered(&x);
    let sums = reference::matmul(&run.reference(&packed, &reference)).map_err(|e| text(&e))?;
    let y = run.multiply(&whole, &packed, &x).await?;
    let expected = run.expected(sums);
    judge(case.y_columns(), "values", &y, &expected, &mut worst, &mut outcome.fault);
    if case.function == ActivationFunction::Identity {
        let exact = data::exact_weights(&whole, &packed, &mut random).map_err(|e| text(&e))?;
        let limit = reference::exact_limit(&exact, None, false).map_err(|e| text(&e))?;
        let limit = u64::from(limit.min(64));
        let x: Vec<f32> = (0..x_rows * case.k)
            .map(|_| random.below(2 * limit + 1) as f32 - limit as f32)
            .collect();
        let reference = run.gathered(&x);
        let sums = reference::matmul_exact(&run.reference(&exact, &reference));
        let expected = run.expected(exact_sums(&sums.map_err(|e| text(&e))?));
        let y = run.multiply(&whole, &exact, &x).await?;
        judge(case.y_columns(), "integers", &y, &expected, &mut worst, &mut outcome.fault);
    }
    outcome.error_over_bound = ErrorOverBound::Ratio(worst);
    Ok(outcome)
}

/// Returns a list of `m` rows in runs of `unit`, each of an expert or of none; its rows come first.
fn list(m: usize, x_rows: usize, count: u32, unit: u32, random: &mut Random) -> Vec<[u32; 2]> {
    let mut list = Vec::with_capacity(m);
    while list.len() < m {
        let expert = random.below(u64::from(count) + 1) as u32;
        let live = 1 + random.below(unit.into());
        for place in 0..u64::from(unit) {
            let row = random.below(x_rows as u64) as u32;
            list.push(match expert < count && place < live {
                true => [row, expert],
                // The row beside no expert must not matter.
                false => [row, Experts::NO_EXPERT],
            });
        }
    }
    list.truncate(m);
    list
}

/// What both patterns of a case share.
struct Run<'a> {
    host: &'a Host,
    case: &'a Case,
    plan: &'a MatmulPlan,
    list: &'a [[u32; 2]],
    from: Rows,
    to: Rows,
}

impl Run<'_> {
    /// Returns the row of X of each row of the list.
    fn gathered(&self, x: &[f32]) -> Vec<f32> {
        let k = self.case.k;
        self.list.iter().flat_map(|[row, _]| &x[*row as usize * k..][..k]).copied().collect()
    }

    /// Returns the product of rows of X with the matrices of all experts.
    fn reference<'b>(&self, weights: &'b PackedWeights, x: &'b [f32]) -> MatmulCase<'b> {
        let (m, output) = (self.case.m, OutputType::F32);
        MatmulCase { x, m, weights, bias: None, output, zero_folded: false }
    }

    /// Returns what rows of Y must be that have an expert, from the sums of all experts.
    fn expected(&self, sums: Vec<Expected>) -> Vec<Expected> {
        let n = self.case.n;
        let whole = sums.len() / self.list.len().max(1);
        let of_expert = self.list.iter().enumerate().flat_map(|(row, [_, expert])| {
            // Where there is no expert, any will do.
            let expert = if *expert == Experts::NO_EXPERT { 0 } else { *expert as usize };
            sums[row * whole + expert * n..][..n].iter().copied()
        });
        let all = finished(self.case, of_expert.collect(), output(self.case.output));
        self.live(&all)
    }

    /// Returns the rows that have an expert.
    fn live<T: Copy>(&self, rows: &[T]) -> Vec<T> {
        let columns = self.case.y_columns();
        let live = self.list.iter().enumerate().filter(|(_, [_, e])| *e != Experts::NO_EXPERT);
        live.flat_map(|(row, _)| rows[row * columns..][..columns].iter().copied()).collect()
    }

    /// Runs the kernel and returns the rows of Y that have an expert. The others must be as they were.
    async fn multiply(
        &self,
        whole: &Case,
        packed: &PackedWeights,
        x: &[f32],
    ) -> Result<Vec<f32>, Trouble> {
        let Self { host, case, list, from, to, .. } = *self;
        let max_rows = self.plan.spec().max_m as usize;
        let x_rows = x.len().checked_div(case.k).unwrap_or(case.m / 2 + 3);
        let weights = data::upload(host, whole, packed).await.map_err(Trouble::Failed)?;
        let at = if case.strided { BEFORE } else { 0 };
        let mut words = vec![SENTINEL; at + 2 * max_rows + 8];
        for (to, from) in words[at..].chunks_exact_mut(2).zip(list) {
            to.copy_from_slice(from);
        }
        let mut around = to.lay(max_rows, &[]);
        if case.epilogue == Epilogue::Accumulate {
            for (row, [_, expert]) in list.iter().enumerate() {
                for column in 0..case.y_columns() {
                    if *expert != Experts::NO_EXPERT {
                        let at = to.offset + row * to.stride + column;
                        put(&mut around, case.output, at, old_value(row, column));
                    }
                }
            }
        }
        let x = host.storage_async(&from.lay(x_rows, x)).await.map_err(|e| text(&e))?;
        let list_buffer = host.storage_async(&words).await.map_err(|e| text(&e))?;
        let y = host.storage_async(&around).await.map_err(|e| text(&e))?;
        let args = MatmulArgs {
            activations: SubBuffer { buffer: &x, offset: from.bytes() },
            weights: &weights,
            bias: None,
            output: SubBuffer { buffer: &y, offset: to.bytes() },
        };
        let list_at = SubBuffer { buffer: &list_buffer, offset: 4 * at as u64 };
        let bound = self.plan.bind_experts(args, list_at).await.map_err(|e| text(&e))?;
        let mut recorded = Ok(());
        host.submit_async(|pass| recorded = bound.record(pass, case.m as u32))
            .await
            .map_err(|e| text(&e))?;
        recorded.map_err(|e| text(&e))?;
        let got = host.read_async(&y, 0, around.len()).await.map_err(|e| text(&e))?;
        let rows = to.take(&got, case.m).map_err(Trouble::Failed)?;
        let columns = case.y_columns();
        for (row, [_, expert]) in list.iter().enumerate() {
            let kept = rows[row * columns..][..columns].iter().all(|v| v.is_nan());
            if *expert == Experts::NO_EXPERT && !kept {
                let text = format!("row {row} of Y has no expert and was overwritten");
                return Err(Trouble::Failed(text));
            }
        }
        Ok(self.live(&rows))
    }
}

/// Adds cases of all three: choices of experts in both types, with ties and zeros of both signs; sums in
/// all pairs of types; and matmuls with every schedule that takes experts, formats, epilogues and types
/// in turn.
pub(super) fn mixtures(extent: Extent, cases: &mut Vec<Case>) {
    let mut turn = 0;
    // Quick: one in seven, which is coprime to the length of what alternates.
    let mut taken = |cases: &mut Vec<Case>, case: Case| {
        turn += 1;
        if extent == Extent::Full || turn % 7 == 1 {
            cases.push(case);
        }
    };
    let patterns = [Values::Normal, Values::Extreme, Values::SignedZeros, Values::Ties];
    for (a, (m, experts)) in
        [(0, 4), (1, 1), (1, 128), (5, 60), (70, 8), (300, 128), (3, 300)].into_iter().enumerate()
    {
        for (b, top) in [1, 2, 8].into_iter().enumerate() {
            for (c, unit) in [1, 4, 32].into_iter().enumerate() {
                let of_all = (a + b + c) % 2 == 0;
                let op = Op::Route { top: top.min(experts as u32), unit, of_all };
                let types = (FLOATS[(a + b) % 2], FloatType::F32);
                let values = patterns[(a + b + c) % patterns.len()];
                let case = Case::of_x(op, WeightFormat::f32(), types, (m, experts), values);
                taken(cases, Case { strided: (a + c) % 2 == 1, ..case });
            }
        }
    }
    for (a, shape) in X_SHAPES.into_iter().enumerate() {
        for (b, types) in FLOATS.into_iter().flat_map(|x| FLOATS.map(|y| (x, y))).enumerate() {
            for (top, add) in [(1, true), (2, false), (8, true)] {
                let (op, values) = (Op::Combine { top, add }, Values::Normal);
                let case = Case::of_x(op, WeightFormat::f32(), types, shape, values);
                taken(cases, Case { strided: (a + b) % 2 == 1, ..case });
            }
        }
    }
    let formats = [
        WeightFormat::int4(group(64)),
        WeightFormat::int8(Granularity::Channel),
        WeightFormat::f16(),
        WeightFormat::int4(group(24)).asymmetric(),
        WeightFormat::int8(group(32)).two_four(),
    ];
    let shapes = [(70, 201), (2, 36), (34, 2080), (0, 8), (66, 64), (6, 0), (38, 100)];
    for epilogue in Epilogue::ALL {
        for index in 0.. {
            let (n, k) = shapes[index % shapes.len()];
            let all = Schedule::all(k as u32);
            let all: Vec<_> = all
                .into_iter()
                .filter(|s| matches!(s, Schedule::Gemv { .. } | Schedule::Rows { .. }))
                .collect();
            // Each schedule twice, and then the adapter's own.
            if index >= 2 * all.len() + 6 {
                break;
            }
            let schedule = (index < 2 * all.len()).then(|| all[index / 2]);
            let (count, unit) = (1 + index as u32 % 5, [16, 32][index % 2]);
            let unit =
                if schedule.is_none_or(|s| s.tile().0 == 1) { [1, 4][index % 2] } else { unit };
            let m = schedule.map_or([1, 9, 80][index % 3], |s| s.tile().0 as usize + 1 + index % 9);
            let n = if epilogue == Epilogue::Gated { n / 2 * 2 } else { n };
            let types = (FLOATS[index / 2 % 2], FLOATS[(index + index / 3) % 2]);
            let values = Values::ALL[index % Values::ALL.len()];
            let format = formats[index % formats.len()];
            let mut case = Case::matmul(format, types, (m, n, k), values);
            case.op = Op::ExpertMatmul { count, unit };
            (case.epilogue, case.schedule, case.bias) = (epilogue, schedule, false);
            case.strided = index % 3 == 1;
            if epilogue == Epilogue::Gated {
                case.function = ActivationFunction::ALL[index % ActivationFunction::ALL.len()];
            }
            taken(cases, case);
        }
    }
}
