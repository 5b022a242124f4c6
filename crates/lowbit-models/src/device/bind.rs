//! Plans and binds the ops of a graph.

use super::RunError;
use super::graph::{Cache, Graph, Heads, Mixture, Op, Rows, Shape, Store, Tensor, VectorId};
use lowbit::compress::calibrate::Axis;
use lowbit::format::{CacheFormat, Quantization, StaticScale};
use lowbit::gpu::Kernels;
use lowbit::ops::{
    Activations, AttentionArgs, AttentionPlan, AttentionSpec, BindError, Bound, CombineArgs,
    CombinePlan, CombineSpec, DequantizeArgs, DequantizePlan, DequantizeSpec, Epilogue, Experts,
    FloatType, GateArgs, GatePlan, GateSpec, GramArgs, GramPlan, GramSpec, MatmulArgs, MatmulPlan,
    MatmulSpec, NormArgs, NormPlan, NormResidual, NormSpec, ObserveArgs, ObservePlan, ObserveSpec,
    Output, PlanError, PositionsArgs, PositionsPlan, PositionsSpec, QuantizeActivationsArgs,
    QuantizeActivationsPlan, QuantizeActivationsSpec, RecordError, RotaryArgs, RotaryPlan,
    RotarySpec, RouteArgs, RoutePlan, RouteSpec, SampleArgs, SamplePlan, SampleSpec, Select,
    SubBuffer,
};
use lowbit::wgpu;

/// An op with its buffers.
pub(super) struct Step {
    /// The kind of op.
    pub name: &'static str,
    bound: Box<dyn Recorded>,
    /// How many rows of a list of experts there are for the rows of a step, if those are what it takes.
    listed: Option<RouteSpec>,
}

impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Step {
    /// Records the op for the first `rows` rows.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>, rows: u32) -> Result<(), RecordError> {
        self.bound.record(pass, self.rows(rows))
    }

    fn rows(&self, rows: u32) -> u32 {
        self.listed.as_ref().map_or(rows, |route| route.list_rows(rows))
    }

    /// Returns the number of dispatches for `rows` rows.
    pub fn dispatches(&self, rows: u32) -> usize {
        self.bound.dispatches(self.rows(rows))
    }
}

/// A bound op of any kind.
trait Recorded: Send + Sync {
    fn record(&self, pass: &mut wgpu::ComputePass<'_>, rows: u32) -> Result<(), RecordError>;
    fn dispatches(&self, rows: u32) -> usize;
}

impl<P: Send + Sync> Recorded for Bound<P> {
    fn record(&self, pass: &mut wgpu::ComputePass<'_>, rows: u32) -> Result<(), RecordError> {
        Bound::record(self, pass, rows)
    }

    fn dispatches(&self, rows: u32) -> usize {
        self.workgroups(rows).len()
    }
}

/// Describes the attention of a graph.
pub(super) fn attention_spec(
    rows: u32,
    heads: Heads,
    cache: &Cache,
    float: FloatType,
    (scale, soft_cap): (f32, f32),
    reach: Option<u32>,
) -> AttentionSpec {
    let spec = AttentionSpec::new(rows, heads.queries, heads.keys, heads.columns, cache.slots)
        .with_cache(cache.format)
        .with_types(float, float)
        .with_scale(scale)
        .with_soft_cap(soft_cap);
    let spec = match reach {
        Some(reach) => spec.with_bias(reach),
        None => spec,
    };
    // int4 values are rotated, and the result is rotated back.
    if cache.format == CacheFormat::Int4 { spec.with_inverse_hadamard() } else { spec }
}

/// Describes the choice of experts for up to `rows` rows.
pub(super) fn route_spec(rows: u32, experts: Mixture) -> RouteSpec {
    let spec = RouteSpec::new(rows, experts.count, experts.used).with_unit(experts.unit);
    if experts.normalize { spec } else { spec.with_weights_of_all() }
}

/// Describes what is observed of the rows of a tensor.
pub(super) fn observe_spec(shape: &Shape, axis: Axis, bins: u32) -> ObserveSpec {
    let float = match shape.stored {
        Rows::Float(float) => float,
        Rows::Int8(_) | Rows::Words => FloatType::F32,
    };
    ObserveSpec::new(shape.rows, shape.columns, axis, bins).with_activations(float)
}

/// Describes XᵀX of the rows of a tensor.
pub(super) fn gram_spec(shape: &Shape) -> GramSpec {
    let float = match shape.stored {
        Rows::Float(float) => float,
        Rows::Int8(_) | Rows::Words => FloatType::F32,
    };
    GramSpec::new(shape.rows, shape.columns).with_activations(float)
}

/// Plans that are made already, so that layers of one shape share theirs.
#[derive(Debug, Default)]
struct Plans {
    norm: Vec<(NormSpec, NormPlan)>,
    matmul: Vec<(MatmulSpec, MatmulPlan)>,
    rotary: Vec<(RotarySpec, RotaryPlan)>,
    attention: Vec<(AttentionSpec, AttentionPlan)>,
    gate: Vec<(GateSpec, GatePlan)>,
    observe: Vec<(ObserveSpec, ObservePlan)>,
}

/// Returns the plan of a spec, which is made unless there is one.
async fn planned<S: PartialEq, P: Clone>(
    plans: &mut Vec<(S, P)>,
    spec: S,
    make: impl AsyncFnOnce(&S) -> Result<P, PlanError>,
) -> Result<P, PlanError> {
    if let Some((_, plan)) = plans.iter().find(|(known, _)| *known == spec) {
        return Ok(plan.clone());
    }
    let plan = make(&spec).await?;
    plans.push((spec, plan.clone()));
    Ok(plan)
}

/// The reason why a step cannot be made, before the step is named.
enum Reason {
    Plan(PlanError),
    Bind(BindError),
}

impl From<PlanError> for Reason {
    fn from(error: PlanError) -> Self {
        Self::Plan(error)
    }
}

impl From<BindError> for Reason {
    fn from(error: BindError) -> Self {
        Self::Bind(error)
    }
}

/// What binds a graph: the buffers of its tensors, the weights, and the tables of rotations.
pub(super) struct Binder<'a> {
    pub kernels: &'a Kernels,
    pub store: &'a Store,
    pub tables: &'a [wgpu::Buffer],
    pub graph: &'a Graph,
    /// The buffer of each tensor.
    pub buffers: &'a [Option<wgpu::Buffer>],
    /// How matmuls choose their kernels.
    pub select: &'a Select,
}

impl Binder<'_> {
    /// Binds all ops in order.
    ///
    /// # Errors
    /// Returns [`RunError::Plan`] or [`RunError::Bind`], which name the op.
    pub async fn steps(&self) -> Result<Vec<Step>, RunError> {
        let mut plans = Plans::default();
        let mut steps = Vec::with_capacity(self.graph.ops.len());
        for (index, op) in self.graph.ops.iter().enumerate() {
            let bound = self.step(op, &mut plans).await;
            let step = || format!("step {index} ({})", op.name());
            steps.push(Step {
                name: op.name(),
                listed: match *op {
                    Op::ExpertMatmul { experts, list, .. }
                    | Op::Observe { listed: Some((experts, list)), .. } => {
                        Some(route_spec(self.shape(list).rows, experts))
                    }
                    _ => None,
                },
                bound: bound.map_err(|reason| match reason {
                    Reason::Plan(source) => RunError::Plan { step: step(), source },
                    Reason::Bind(source) => RunError::Bind { step: step(), source },
                })?,
            });
        }
        Ok(steps)
    }

    fn shape(&self, tensor: Tensor) -> &Shape {
        &self.graph.shapes[tensor.0]
    }

    /// Returns the elements from one row of a tensor of floats to the next.
    fn stride(&self, tensor: Tensor) -> u32 {
        self.float(tensor).packed(self.shape(tensor).columns)
    }

    fn buffer(&self, tensor: Tensor) -> Result<SubBuffer<'_>, BindError> {
        let missing = BindError::Overflow { role: lowbit::ops::Role::Scratch };
        self.buffers[tensor.0].as_ref().map(SubBuffer::from).ok_or(missing)
    }

    fn vector(&self, vector: VectorId) -> SubBuffer<'_> {
        (&self.store.vectors[vector.0]).into()
    }

    fn float(&self, tensor: Tensor) -> FloatType {
        match self.shape(tensor).stored {
            Rows::Float(float) => float,
            Rows::Int8(_) | Rows::Words => FloatType::F32,
        }
    }

    /// Returns how an op writes a tensor, and the scale that its codes have if it is fixed.
    fn result(&self, tensor: Tensor) -> (Output, Option<StaticScale>) {
        match self.shape(tensor).stored {
            Rows::Int8(how @ Quantization::Static(scale)) => {
                (Output::Int8(how.format()), Some(scale))
            }
            Rows::Int8(how) => (Output::Int8(how.format()), None),
            _ => (self.float(tensor).into(), None),
        }
    }

    async fn step(&self, op: &Op, plans: &mut Plans) -> Result<Box<dyn Recorded>, Reason> {
        match *op {
            Op::Positions { rows, state, window, base, advance } => {
                let mut spec = PositionsSpec::new(self.shape(rows).rows).with_index_base(base);
                spec.window = window;
                spec.advance = advance;
                let plan = PositionsPlan::new(self.kernels, &spec).await?;
                let (state, output) = (self.buffer(state)?, self.buffer(rows)?);
                Ok(Box::new(plan.bind(PositionsArgs { state, output }).await?))
            }
            Op::Gather { table, indices: (indices, offset), output, column } => {
                let weights = &self.store.matrices[table.0];
                let spec = DequantizeSpec::of(weights)
                    .with_gather(self.shape(output).rows)
                    .with_output(self.float(output))
                    .with_stride(self.stride(output));
                let plan = DequantizePlan::new(self.kernels, &spec).await?;
                let indices = SubBuffer { offset, ..self.buffer(indices)? };
                let offset = u64::from(column) * self.float(output).bytes();
                let output = SubBuffer { offset, ..self.buffer(output)? };
                let args = DequantizeArgs { weights, indices: Some(indices), output };
                Ok(Box::new(plan.bind(args).await?))
            }
            Op::Gram { input, sums, status } => {
                let spec = gram_spec(self.shape(input));
                let plan = GramPlan::new(self.kernels, &spec).await?;
                let (sums, status) = (self.buffer(sums)?, self.buffer(status)?);
                let args = GramArgs { activations: self.buffer(input)?, sums, status };
                Ok(Box::new(plan.bind(args).await?))
            }
            Op::Norm { .. } => self.norm(op, plans).await,
            Op::Quantize { input, output, given } => {
                let Shape { rows, columns, .. } = *self.shape(input);
                let Rows::Int8(how) = self.shape(output).stored else {
                    return Err(BindError::Overflow { role: lowbit::ops::Role::Output }.into());
                };
                let mut spec = QuantizeActivationsSpec::new(rows, columns, how.format())
                    .with_activations(self.float(input));
                if given.is_some() {
                    spec = spec.with_given_scale();
                }
                let given = given.map(|given| self.vector(given));
                let plan = QuantizeActivationsPlan::new(self.kernels, &spec).await?;
                let (activations, output) = (self.buffer(input)?, self.buffer(output)?);
                let args = QuantizeActivationsArgs { activations, given, output };
                Ok(Box::new(plan.bind(args).await?))
            }
            Op::Matmul { .. } => self.matmul(op, plans).await,
            Op::Rotary { .. } => self.rotary(op, plans).await,
            Op::Attention {
                heads,
                queries,
                rows,
                ref cache,
                scale,
                soft_cap,
                bias,
                scratch,
                output,
            } => {
                let (max, float) = (self.shape(queries).rows, self.float(queries));
                let reach = bias.map(|(_, reach)| reach);
                let spec = attention_spec(max, heads, cache, float, (scale, soft_cap), reach);
                let spec = spec.with_strides(self.stride(queries), self.stride(output));
                let make =
                    async |spec: &AttentionSpec| AttentionPlan::new(self.kernels, spec).await;
                let plan = planned(&mut plans.attention, spec, make).await?;
                let args = AttentionArgs {
                    queries: self.buffer(queries)?,
                    keys: self.buffer(cache.keys)?,
                    values: self.buffer(cache.values)?,
                    rows: self.buffer(rows)?,
                    bias: bias.map(|(vector, _)| self.vector(vector)),
                    output: self.buffer(output)?,
                    scratch: Some(self.buffer(scratch)?),
                };
                Ok(Box::new(plan.bind(args).await?))
            }
            Op::Route { logits, experts, list, choices } => {
                let spec = route_spec(self.shape(logits).rows, experts);
                let plan = RoutePlan::new(self.kernels, &spec).await?;
                let (list, choices) = (self.buffer(list)?, self.buffer(choices)?);
                let args = RouteArgs { logits: self.buffer(logits)?, list, choices };
                Ok(Box::new(plan.bind(args).await?))
            }
            Op::ExpertMatmul {
                weights,
                experts,
                list,
                input,
                listed,
                function,
                epilogue,
                output,
            } => {
                let weights = &self.store.matrices[weights.0];
                let route = route_spec(self.shape(list).rows, experts);
                let (count, unit) = (experts.count, route.unit);
                let x_rows = self.shape(input).rows;
                let rows = route.list_rows(route.max_m);
                let mut spec =
                    MatmulSpec::of_experts(rows, weights, Experts { count, x_rows, unit })
                        .with_activations(self.float(input))
                        .with_output(self.float(output))
                        .with_function(function);
                if epilogue != Epilogue::None {
                    spec = spec.with_epilogue(epilogue);
                }
                if listed {
                    spec = spec.with_own_rows();
                }
                let make = async |spec: &MatmulSpec| {
                    MatmulPlan::new(self.kernels, spec, self.select.clone()).await
                };
                let plan = planned(&mut plans.matmul, spec, make).await?;
                let (activations, output) = (self.buffer(input)?, self.buffer(output)?);
                let args = MatmulArgs { activations, weights, bias: None, output };
                Ok(Box::new(plan.bind_experts(args, self.buffer(list)?).await?))
            }
            Op::Combine { input, choices, experts, output } => {
                let (x, y) = (self.shape(input), self.shape(output));
                let spec = CombineSpec::new(y.rows, y.columns, experts.used, x.rows)
                    .with_activations(self.float(input))
                    .with_output(self.float(output))
                    .with_accumulate();
                let plan = CombinePlan::new(self.kernels, &spec).await?;
                let (activations, output) = (self.buffer(input)?, self.buffer(output)?);
                let args = CombineArgs { activations, choices: self.buffer(choices)?, output };
                Ok(Box::new(plan.bind(args).await?))
            }
            Op::Sample { logits, settings, output } => {
                let Shape { rows, columns, .. } = *self.shape(logits);
                let spec = SampleSpec::new(rows, columns).with_activations(self.float(logits));
                let spec = if settings.is_some() { spec.with_random() } else { spec };
                let plan = SamplePlan::new(self.kernels, &spec).await?;
                let settings = settings.map(|settings| self.buffer(settings)).transpose()?;
                let (activations, output) = (self.buffer(logits)?, self.buffer(output)?);
                Ok(Box::new(plan.bind(SampleArgs { activations, settings, output }).await?))
            }
            Op::Observe { input, axis, bins, output: (output, offset), .. } => {
                let spec = observe_spec(self.shape(input), axis, bins);
                let make = async |spec: &ObserveSpec| ObservePlan::new(self.kernels, spec).await;
                let plan = planned(&mut plans.observe, spec, make).await?;
                let output = SubBuffer { offset, ..self.buffer(output)? };
                let args = ObserveArgs { activations: self.buffer(input)?, output };
                Ok(Box::new(plan.bind(args).await?))
            }
            Op::Gate { function, input, output } => {
                let Shape { rows, columns, .. } = *self.shape(input);
                let (result, scale) = self.result(output);
                let mut spec = GateSpec::new(rows, columns / 2, function)
                    .with_activations(self.float(input))
                    .with_output(result);
                if let Output::Float(_) = result {
                    spec = spec.with_strides(self.stride(input), self.stride(output));
                }
                let make = async |spec: &GateSpec| GatePlan::new(self.kernels, spec).await;
                let plan = planned(&mut plans.gate, spec, make).await?;
                let (activations, output) = (self.buffer(input)?, self.buffer(output)?);
                let args = GateArgs { activations, scale, output };
                Ok(Box::new(plan.bind(args).await?))
            }
        }
    }

    async fn norm(&self, op: &Op, plans: &mut Plans) -> Result<Box<dyn Recorded>, Reason> {
        let &Op::Norm { kind, epsilon, offset, input, residual, weight, bias, output } = op else {
            return Err(BindError::Overflow { role: lowbit::ops::Role::Scratch }.into());
        };
        let Shape { rows, columns, .. } = *self.shape(input);
        let (result, scale) = self.result(output);
        let mut spec = NormSpec::new(rows, columns, kind, epsilon)
            .with_activations(self.float(input))
            .with_weight_offset(offset)
            .with_output(result);
        if let Output::Float(_) = result {
            let stride = self.stride(output);
            spec = spec.with_y_strides(stride, stride.saturating_mul(rows));
        }
        if let Some((from, _)) = residual {
            spec = spec.with_residual(self.float(from));
        }
        if bias.is_some() {
            spec = spec.with_bias();
        }
        let make = async |spec: &NormSpec| NormPlan::new(self.kernels, spec).await;
        let plan = planned(&mut plans.norm, spec, make).await?;
        let residual = match residual {
            Some((from, sum)) => {
                Some(NormResidual { input: self.buffer(from)?, sum: self.buffer(sum)? })
            }
            None => None,
        };
        let args = NormArgs {
            activations: self.buffer(input)?,
            residual,
            weight: Some(self.vector(weight)),
            bias: bias.map(|bias| self.vector(bias)),
            scale,
            output: self.buffer(output)?,
        };
        Ok(Box::new(plan.bind(args).await?))
    }

    async fn matmul(&self, op: &Op, plans: &mut Plans) -> Result<Box<dyn Recorded>, Reason> {
        let &Op::Matmul { weights, input, bias, function, epilogue, output, column } = op else {
            return Err(BindError::Overflow { role: lowbit::ops::Role::Scratch }.into());
        };
        let weights = &self.store.matrices[weights.0];
        let (x, y) = (self.shape(input), self.shape(output));
        let activations: Activations = match x.stored {
            Rows::Int8(how) => Activations::Int8(how.format()),
            _ => self.float(input).into(),
        };
        let float = self.float(output);
        let mut spec = MatmulSpec::of(x.rows, weights)
            .with_activations(activations)
            .with_output(float)
            .with_function(function);
        if epilogue != Epilogue::None {
            spec = spec.with_epilogue(epilogue);
        }
        let stride = float.packed(y.columns);
        spec = spec.with_y_strides(stride, stride.saturating_mul(y.rows));
        if bias.is_some() {
            spec = spec.with_bias();
        }
        let make = async |spec: &MatmulSpec| {
            MatmulPlan::new(self.kernels, spec, self.select.clone()).await
        };
        let plan = planned(&mut plans.matmul, spec, make).await?;
        let offset = u64::from(column) * float.bytes();
        let args = MatmulArgs {
            activations: self.buffer(input)?,
            weights,
            bias: bias.map(|bias| self.vector(bias)),
            output: SubBuffer { offset, ..self.buffer(output)? },
        };
        Ok(Box::new(plan.bind(args).await?))
    }

    async fn rotary(&self, op: &Op, plans: &mut Plans) -> Result<Box<dyn Recorded>, Reason> {
        let &Op::Rotary { heads, input, rows, rotation, norm, queries, ref cache } = op else {
            return Err(BindError::Overflow { role: lowbit::ops::Role::Scratch }.into());
        };
        let int4 = cache.format == CacheFormat::Int4;
        let mut spec =
            RotarySpec::new(self.shape(input).rows, heads.queries, heads.keys, heads.columns)
                .with_activations(self.float(input))
                .with_output(self.float(queries))
                .with_cache(cache.format, cache.slots)
                .with_hadamard(int4, int4);
        if let Some(rotation) = rotation {
            spec = spec.with_rotation(rotation.pairs, rotation.columns, rotation.positions);
        }
        if let Some((norm, _, _)) = norm {
            spec = spec.with_norm(norm);
        }
        let make = async |spec: &RotarySpec| RotaryPlan::new(self.kernels, spec).await;
        let plan = planned(&mut plans.rotary, spec, make).await?;
        let args = RotaryArgs {
            activations: self.buffer(input)?,
            rows: self.buffer(rows)?,
            angles: rotation.map(|rotation| (&self.tables[rotation.table]).into()),
            query_norm: norm.map(|(_, query, _)| self.vector(query)),
            key_norm: norm.map(|(_, _, key)| self.vector(key)),
            queries: Some(self.buffer(queries)?),
            keys: Some(self.buffer(cache.keys)?),
            values: Some(self.buffer(cache.values)?),
        };
        Ok(Box::new(plan.bind(args).await?))
    }
}
