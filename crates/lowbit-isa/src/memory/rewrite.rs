//! Rewrites a shader so that it writes down each access to memory.

use naga::proc::GlobalCtx;
use naga::valid::{Capabilities, FunctionInfo, ValidationFlags, Validator};
use naga::{
    AddressSpace, Arena, BinaryOperator, Block, BuiltIn, EntryPoint, Expression, FunctionArgument,
    GlobalVariable, Handle, ImageQuery, Literal, Module, ScalarKind, Span, Statement, Type,
    TypeInner, VectorSize,
};

/// Text that comes before a traced shader.
const PRELUDE: &str = include_str!("trace.wgsl");

/// The memory that a load or a store reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// A buffer or a texture of bind group 0, by its number.
    Binding(u32),
    /// Workgroup memory: a variable, by its number.
    Workgroup(u32),
}

/// A load or a store in the text of a shader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// The memory that it reaches.
    pub place: Place,
    /// Bytes that a lane loads or stores.
    pub bytes: u32,
    /// Whether it stores; an atomic operation does.
    pub store: bool,
}

/// Rewrites a shader. The accesses of the result have numbers from `first` on, in the order of the
/// sites that are returned.
///
/// # Errors
/// Returns the message of naga, if the shader is not valid, before or after.
pub fn rewrite(wgsl: &str, first: u32) -> Result<(Module, Vec<Site>), String> {
    // Directives come before all else, and composition writes each into a line of its own.
    let is_directive = |line: &&str| line.starts_with("enable ");
    let head: usize = wgsl.split_inclusive('\n').take_while(is_directive).map(str::len).sum();
    let source = format!("{}{PRELUDE}{}", &wgsl[..head], &wgsl[head..]);
    let mut module =
        naga::front::wgsl::parse_str(&source).map_err(|error| error.emit_to_string(&source))?;
    let validate = |module: &Module| {
        Validator::new(ValidationFlags::all(), Capabilities::all())
            .validate(module)
            .map_err(|error| error.emit_to_string(&source))
    };
    let info = validate(&module)?;
    let own = |name: &str| {
        let mut functions = module.functions.iter();
        let found = functions.find(|(_, function)| function.name.as_deref() == Some(name));
        found.map(|(handle, _)| handle).ok_or(format!("{name} is missing"))
    };
    let (begin, access) = (own("lowbit_begin")?, own("lowbit_access")?);
    let mut functions = std::mem::take(&mut module.functions);
    let mut entry_points = std::mem::take(&mut module.entry_points);
    let mut rewriter = Rewriter { module: &module, access, first, sites: Vec::new() };
    for (handle, function) in functions.iter_mut() {
        if handle != begin && handle != access {
            rewriter.function(function, &info[handle]);
        }
    }
    for (index, entry) in entry_points.iter_mut().enumerate() {
        rewriter.function(&mut entry.function, info.get_entry_point(index));
    }
    let sites = rewriter.sites;
    for entry in &mut entry_points {
        call_begin(&mut module, entry, begin);
    }
    (module.functions, module.entry_points) = (functions, entry_points);
    validate(&module)?;
    Ok((module, sites))
}

/// Begins an entry point with a call that says which invocation it is.
fn call_begin(module: &mut Module, entry: &mut EntryPoint, begin: Handle<naga::Function>) {
    let number = TypeInner::Scalar(naga::Scalar::U32);
    let vector = TypeInner::Vector { size: VectorSize::Tri, scalar: naga::Scalar::U32 };
    let wanted = [
        (BuiltIn::WorkGroupId, vector.clone()),
        (BuiltIn::NumWorkGroups, vector),
        (BuiltIn::LocalInvocationIndex, number),
    ];
    let arguments = wanted.map(|(builtin, inner)| {
        let binding = Some(naga::Binding::BuiltIn(builtin));
        let known = entry.function.arguments.iter().position(|have| have.binding == binding);
        let index = known.unwrap_or_else(|| {
            let ty = module.types.insert(Type { name: None, inner }, Span::UNDEFINED);
            entry.function.arguments.push(FunctionArgument { name: None, ty, binding });
            entry.function.arguments.len() - 1
        });
        let argument = Expression::FunctionArgument(index as u32);
        entry.function.expressions.append(argument, Span::UNDEFINED)
    });
    let call = Statement::Call { function: begin, arguments: arguments.into(), result: None };
    let body = std::mem::take(&mut entry.function.body);
    entry.function.body = Block::from_vec(vec![call]);
    entry.function.body.extend_block(body);
}

/// A byte that a pointer points to: a constant, plus indices times strides.
struct Address {
    global: Handle<GlobalVariable>,
    constant: u32,
    indices: Vec<(Handle<Expression>, u32)>,
}

struct Rewriter<'m> {
    /// Without its functions, which are being rewritten.
    module: &'m Module,
    access: Handle<naga::Function>,
    first: u32,
    sites: Vec<Site>,
}

impl Rewriter<'_> {
    fn function(&mut self, function: &mut naga::Function, info: &FunctionInfo) {
        let body = std::mem::take(&mut function.body);
        function.body = self.block(&mut function.expressions, info, body);
    }

    fn block(
        &mut self,
        expressions: &mut Arena<Expression>,
        info: &FunctionInfo,
        block: Block,
    ) -> Block {
        let mut out = Block::with_capacity(block.len());
        for (statement, span) in block.span_into_iter() {
            let statement = match statement {
                // Values that are emitted are known after the statement, and their indices before.
                Statement::Emit(ref range) => {
                    let loads = range.clone();
                    out.push(statement, span);
                    for load in loads {
                        match expressions[load] {
                            Expression::Load { pointer } => {
                                let bytes = self.bytes_of(info, load);
                                self.pointer(expressions, info, pointer, (bytes, false), &mut out);
                            }
                            Expression::ImageLoad { image, coordinate, .. } => {
                                let bytes = self.bytes_of(info, load);
                                self.texel(expressions, info, (image, coordinate), bytes, &mut out);
                            }
                            _ => {}
                        }
                    }
                    continue;
                }
                Statement::Store { pointer, value } => {
                    let bytes = self.bytes_of(info, value);
                    self.pointer(expressions, info, pointer, (bytes, true), &mut out);
                    statement
                }
                Statement::Atomic { pointer, value, .. } => {
                    let bytes = self.bytes_of(info, value);
                    self.pointer(expressions, info, pointer, (bytes, true), &mut out);
                    statement
                }
                Statement::WorkGroupUniformLoad { pointer, result } => {
                    let bytes = self.bytes_of(info, result);
                    self.pointer(expressions, info, pointer, (bytes, false), &mut out);
                    statement
                }
                Statement::Block(block) => Statement::Block(self.block(expressions, info, block)),
                Statement::If { condition, accept, reject } => Statement::If {
                    condition,
                    accept: self.block(expressions, info, accept),
                    reject: self.block(expressions, info, reject),
                },
                Statement::Switch { selector, mut cases } => {
                    for case in &mut cases {
                        let body = std::mem::take(&mut case.body);
                        case.body = self.block(expressions, info, body);
                    }
                    Statement::Switch { selector, cases }
                }
                Statement::Loop { body, continuing, break_if } => Statement::Loop {
                    body: self.block(expressions, info, body),
                    continuing: self.block(expressions, info, continuing),
                    break_if,
                },
                other => other,
            };
            out.push(statement, span);
        }
        out
    }

    /// Writes down an access through a pointer, if it is one to a buffer or to workgroup memory.
    fn pointer(
        &mut self,
        expressions: &mut Arena<Expression>,
        info: &FunctionInfo,
        pointer: Handle<Expression>,
        (bytes, store): (u32, bool),
        out: &mut Block,
    ) {
        let Some(address) = self.address(expressions, info, pointer) else { return };
        let Some(place) = self.place(address.global) else { return };
        let mut writer = Writer::new(expressions);
        let mut at = writer.literal(address.constant);
        let strides: Vec<_> =
            address.indices.iter().map(|(_, stride)| writer.literal(*stride)).collect();
        writer.begin();
        for ((index, _), stride) in address.indices.iter().zip(strides) {
            let index = writer.unsigned(*index);
            let product = writer.binary(BinaryOperator::Multiply, index, stride);
            at = writer.binary(BinaryOperator::Add, at, product);
        }
        writer.end(out);
        self.call(expressions, Site { place, bytes, store }, at, out);
    }

    /// Writes down the load of a texel. Rows of texels lie one after the other.
    fn texel(
        &mut self,
        expressions: &mut Arena<Expression>,
        info: &FunctionInfo,
        (image, coordinate): (Handle<Expression>, Handle<Expression>),
        bytes: u32,
        out: &mut Block,
    ) {
        let Expression::GlobalVariable(global) = expressions[image] else { return };
        let Some(place) = self.place(global) else { return };
        // A line of texels has one coordinate, which no kernel uses.
        let TypeInner::Vector { .. } = info[coordinate].ty.inner_with(&self.module.types) else {
            return;
        };
        let mut writer = Writer::new(expressions);
        let stride = writer.literal(bytes);
        writer.begin();
        let size = writer
            .append(Expression::ImageQuery { image, query: ImageQuery::Size { level: None } });
        let width = writer.append(Expression::AccessIndex { base: size, index: 0 });
        let [x, y] = [0, 1].map(|index| {
            let component = writer.append(Expression::AccessIndex { base: coordinate, index });
            writer.unsigned(component)
        });
        let row = writer.binary(BinaryOperator::Multiply, y, width);
        let texel = writer.binary(BinaryOperator::Add, row, x);
        let at = writer.binary(BinaryOperator::Multiply, texel, stride);
        writer.end(out);
        self.call(expressions, Site { place, bytes, store: false }, at, out);
    }

    fn call(
        &mut self,
        expressions: &mut Arena<Expression>,
        site: Site,
        at: Handle<Expression>,
        out: &mut Block,
    ) {
        let number = self.first + self.sites.len() as u32;
        self.sites.push(site);
        let number = Writer::new(expressions).literal(number);
        let arguments = vec![number, at];
        out.push(
            Statement::Call { function: self.access, arguments, result: None },
            Span::UNDEFINED,
        );
    }

    /// Follows a pointer to its variable. `None` for variables of a function and its arguments.
    fn address(
        &self,
        expressions: &Arena<Expression>,
        info: &FunctionInfo,
        pointer: Handle<Expression>,
    ) -> Option<Address> {
        let (mut at, mut constant, mut indices) = (pointer, 0, Vec::new());
        loop {
            match expressions[at] {
                Expression::GlobalVariable(global) => {
                    return Some(Address { global, constant, indices });
                }
                Expression::AccessIndex { base, index } => {
                    constant += self.offset(info, base, index)?;
                    at = base;
                }
                Expression::Access { base, index } => {
                    indices.push((index, self.offset(info, base, 1)?));
                    at = base;
                }
                _ => return None,
            }
        }
    }

    /// Returns where part `index` of what `base` points to begins.
    fn offset(&self, info: &FunctionInfo, base: Handle<Expression>, index: u32) -> Option<u32> {
        let types = &self.module.types;
        let inner = match info[base].ty.inner_with(types) {
            TypeInner::Pointer { base, .. } => &types[*base].inner,
            TypeInner::ValuePointer { scalar, .. } => return Some(index * u32::from(scalar.width)),
            _ => return None,
        };
        match inner {
            TypeInner::Vector { scalar, .. } => Some(index * u32::from(scalar.width)),
            TypeInner::Matrix { rows, scalar, .. } => {
                // Columns are aligned as vectors are: of three rows as of four.
                let rows = (*rows as u32).next_power_of_two();
                Some(index * rows * u32::from(scalar.width))
            }
            TypeInner::Array { stride, .. } => Some(index * stride),
            TypeInner::Struct { members, .. } => Some(members.get(index as usize)?.offset),
            _ => None,
        }
    }

    fn bytes_of(&self, info: &FunctionInfo, value: Handle<Expression>) -> u32 {
        let Module { types, constants, overrides, global_expressions, .. } = self.module;
        let context = GlobalCtx { types, constants, overrides, global_expressions };
        info[value].ty.inner_with(types).try_size(context).unwrap_or(0)
    }

    fn place(&self, global: Handle<GlobalVariable>) -> Option<Place> {
        let variable = &self.module.global_variables[global];
        match (variable.space, &variable.binding) {
            (AddressSpace::WorkGroup, _) => Some(Place::Workgroup(global.index() as u32)),
            (AddressSpace::Storage { .. } | AddressSpace::Handle, Some(binding)) => {
                (binding.group == 0).then_some(Place::Binding(binding.binding))
            }
            _ => None,
        }
    }
}

/// Appends expressions to a function: literals first, then those that a statement emits.
struct Writer<'e> {
    expressions: &'e mut Arena<Expression>,
    start: usize,
}

impl<'e> Writer<'e> {
    fn new(expressions: &'e mut Arena<Expression>) -> Self {
        let start = expressions.len();
        Self { expressions, start }
    }

    fn append(&mut self, expression: Expression) -> Handle<Expression> {
        self.expressions.append(expression, Span::UNDEFINED)
    }

    fn literal(&mut self, value: u32) -> Handle<Expression> {
        self.append(Expression::Literal(Literal::U32(value)))
    }

    fn unsigned(&mut self, expr: Handle<Expression>) -> Handle<Expression> {
        self.append(Expression::As { expr, kind: ScalarKind::Uint, convert: Some(4) })
    }

    fn binary(
        &mut self,
        op: BinaryOperator,
        left: Handle<Expression>,
        right: Handle<Expression>,
    ) -> Handle<Expression> {
        self.append(Expression::Binary { op, left, right })
    }

    /// From here on expressions are to be emitted.
    fn begin(&mut self) {
        self.start = self.expressions.len();
    }

    fn end(self, out: &mut Block) {
        if self.expressions.len() > self.start {
            let emitted = self.expressions.range_from(self.start);
            out.push(Statement::Emit(emitted), Span::UNDEFINED);
        }
    }
}
