use super::imports::{self, ImportError};
use super::{Feature, Fragment, Grid, UniformLayout};
use crate::format::{BLOCK_K, CodeType, Offset, ScaleType, WeightFormat};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A value for the generated block of constants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Const {
    /// A `u32`.
    U32(u32),
    /// An `i32`.
    I32(i32),
    /// A `bool`.
    Bool(bool),
}

impl std::fmt::Display for Const {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::U32(value) => write!(f, "{value}"),
            Self::I32(value) => write!(f, "{value}"),
            Self::Bool(value) => write!(f, "{value}"),
        }
    }
}

/// How a kernel accesses a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// A uniform buffer.
    Uniform,
    /// A uniform buffer with a dynamic offset.
    DynamicUniform,
    /// A storage buffer that is read.
    Read,
    /// A storage buffer that is written, and perhaps read too.
    Write,
    /// A 2D texture of four u32 a texel that is read.
    Texture,
}

/// What a binding is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BindingRole {
    /// The parameters of a dispatch, in this layout.
    Params(UniformLayout),
    /// The lower digit of the number of rows; see `Kernels::m_offsets`.
    CountLow,
    /// The higher digit of the number of rows.
    CountHigh,
    /// Codes of W in the device layout.
    Codes,
    /// Any other data, described in a few words.
    Data(&'static str),
}

impl BindingRole {
    /// Returns what the binding holds, in a few words.
    pub const fn holds(&self) -> &'static str {
        match self {
            Self::Params(_) => "parameters of the dispatch",
            Self::CountLow => "number of rows, modulo 1024, in the first word",
            Self::CountHigh => "number of rows, divided by 1024, in the first word",
            Self::Codes => "codes of W, in the device layout",
            Self::Data(holds) => holds,
        }
    }
}

/// One binding of group 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Binding {
    /// The number in the group.
    pub number: u32,
    /// The name of the variable in the shader. Kernels that share a pipeline layout may lack the
    /// variable.
    pub name: &'static str,
    /// What it is for.
    pub role: BindingRole,
    /// How the kernel accesses it.
    pub access: Access,
}

/// Bytes of a uniform that holds one digit of a count.
const DIGIT_BYTES: u32 = 16;

impl Binding {
    /// Creates a binding.
    pub const fn new(number: u32, name: &'static str, role: BindingRole, access: Access) -> Self {
        Self { number, name, role, access }
    }

    /// Creates a binding of data that is described in a few words.
    pub const fn data(
        number: u32,
        name: &'static str,
        holds: &'static str,
        access: Access,
    ) -> Self {
        Self::new(number, name, BindingRole::Data(holds), access)
    }

    /// Creates the binding of the parameters, at number 0.
    pub const fn params(name: &'static str, layout: UniformLayout) -> Self {
        Self::new(0, name, BindingRole::Params(layout), Access::Uniform)
    }

    /// The two digits of the number of rows, at numbers 1 and 2.
    pub const COUNTS: [Self; 2] = [
        Self::new(1, "count_low", BindingRole::CountLow, Access::DynamicUniform),
        Self::new(2, "count_high", BindingRole::CountHigh, Access::DynamicUniform),
    ];

    /// Returns the number of bytes of a uniform buffer; 0 for other bindings, whose size the shader
    /// does not fix.
    pub const fn uniform_bytes(&self) -> u32 {
        match (self.access, self.role) {
            (_, BindingRole::Params(layout)) => layout.size,
            (Access::Uniform | Access::DynamicUniform, _) => DIGIT_BYTES,
            _ => 0,
        }
    }

    /// Returns whether it is a storage buffer.
    pub const fn is_storage(&self) -> bool {
        matches!(self.access, Access::Read | Access::Write)
    }
}

/// How the codes of W that a kernel reads or writes are stored: see
/// [`DeviceLayout`](crate::format::DeviceLayout).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(any(feature = "serde", feature = "translate"), derive(serde::Serialize))]
pub struct Stored {
    /// What a weight is stored as: f32, f16, int16, int8 or int4. Both types of 16 bits if the
    /// kernel only moves codes.
    pub element: Vec<&'static str>,
    /// Whether it is 2:4 sparse: of four columns two are stored.
    pub two_four: bool,
    /// Bytes of codes of a block of 32 columns.
    pub block_bytes: u32,
    /// Rows that lie block by block and word by word side by side.
    pub panel: u32,
    /// What a scale is stored as: `f32`, `f16`, `e8m0` (a power of two in a byte), `i8·f16` or
    /// `e4m3·f32` (two levels); `None` for floats, which have no scales.
    pub scales: Option<&'static str>,
    /// Whether zero points are stored.
    pub zero_points: bool,
    /// Bits of a stored zero point; 0 if none are stored.
    pub zero_bits: u32,
    /// Whether minima, or zero points that are floats, are stored beside scales.
    pub minima: bool,
}

impl Stored {
    /// Weights of a format in panels of `panel` rows, for a kernel that looks at the values.
    pub fn new(format: &WeightFormat, panel: u32) -> Self {
        let (sparse, scales) = (format.is_sparse(), format.scale_type());
        Self::of(&[format.code_type()], sparse, panel, scales, format.offset())
    }

    /// Weights of a format for a kernel that only moves codes: it works for all code types of the
    /// same size and the same code of zero that the format's other facts go with.
    pub fn moved(format: &WeightFormat, panel: u32) -> Self {
        let facts = |t: CodeType| (t.bits(), t.low_bits(), t.fixed_zero());
        let fits = |code_type: CodeType| {
            let other = WeightFormat::new(code_type, format.granularity())
                .with_offset(format.offset())
                .with_scales(format.scale_type());
            let other = if format.is_sparse() { other.two_four() } else { other };
            facts(code_type) == facts(format.code_type()) && other.check().is_ok()
        };
        let same: Vec<_> = CodeType::ALL.into_iter().filter(|&t| fits(t)).collect();
        Self::of(&same, format.is_sparse(), panel, format.scale_type(), format.offset())
    }

    /// Weights of any of `types`, which all have the same size.
    pub fn of(
        types: &[CodeType],
        two_four: bool,
        panel: u32,
        scales: ScaleType,
        offset: Offset,
    ) -> Self {
        let columns = if two_four { BLOCK_K / 2 } else { BLOCK_K } as u32;
        let scaled = types.iter().any(|code| code.has_scales());
        let zero_bits = match offset {
            Offset::ZeroPoint => 8,
            Offset::ZeroPoint4 => 4,
            _ => 0,
        };
        Self {
            element: types.iter().map(|code| code.name()).collect(),
            two_four,
            block_bytes: columns * types.first().map_or(0, |code| code.low_bits()) / 8,
            panel,
            scales: scaled.then_some(match scales {
                ScaleType::F32 => "f32",
                ScaleType::F16 => "f16",
                ScaleType::E8m0 => "e8m0",
                ScaleType::Int8Super => "i8·f16",
                ScaleType::E4m3Tensor => "e4m3·f32",
            }),
            zero_points: zero_bits > 0,
            zero_bits,
            minima: matches!(offset, Offset::Minimum | Offset::FloatZeroPoint),
        }
    }
}

/// Everything about a kernel, declared by its op as plain, comparable data. It is the key of the
/// pipeline cache; composition, pipeline layouts, translation, reports and tests read it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KernelDesc {
    /// The kernel id: the label of modules and pipelines, and the row of a report.
    pub id: String,
    /// The fragment that has the entry point, and the implementers that the kernel chooses; see
    /// [`resolve`](Self::resolve).
    pub fragments: Vec<Fragment>,
    /// The generated constants, in order.
    pub consts: Vec<(&'static str, Const)>,
    /// The bindings of group 0, by rising number.
    pub bindings: Vec<Binding>,
    /// How many workgroups it needs.
    pub grid: Grid,
    /// Invocations in a workgroup.
    pub workgroup_size: u32,
    /// Bytes of workgroup memory.
    pub workgroup_memory: u32,
    /// What shapes and strides must be for this choice of fragments and constants, a sentence each
    /// without its period. Headers of fragments add more: see [`requires`](Self::requires).
    pub conditions: Vec<String>,
    /// How W is stored, if the kernel looks at codes of W.
    pub weights: Option<Stored>,
}

impl KernelDesc {
    /// Creates the description of a kernel without constants and conditions, of one workgroup of one
    /// invocation.
    pub fn new(id: impl Into<String>, fragments: Vec<Fragment>, bindings: Vec<Binding>) -> Self {
        Self {
            id: id.into(),
            fragments,
            consts: Vec::new(),
            bindings,
            grid: Grid::new(&[]),
            workgroup_size: 1,
            workgroup_memory: 0,
            conditions: Vec::new(),
            weights: None,
        }
    }

    /// Returns the fragments of the shader: those of the kernel and everything that their headers
    /// require. A fragment follows those that it requires by name.
    ///
    /// # Errors
    /// Returns [`ImportError`] if a fragment, an implementer or a constant is missing.
    pub fn resolve(&self) -> Result<Vec<Fragment>, ImportError> {
        Ok(self.parts()?.into_iter().map(|(fragment, _)| fragment).collect())
    }

    pub(super) fn parts(&self) -> Result<Vec<(Fragment, Arc<imports::Header>)>, ImportError> {
        let consts: Vec<_> = self.consts.iter().map(|&(name, _)| name).collect();
        imports::resolve(&self.fragments, &consts)
    }

    /// Returns the constants that no fragment of the shader requires. A kernel should have none.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    #[doc(hidden)]
    pub fn unused_consts(&self) -> Result<Vec<&'static str>, ImportError> {
        let parts = self.parts()?;
        let required: Vec<_> = parts.iter().flat_map(|(_, header)| header.consts()).collect();
        let names = self.consts.iter().map(|&(name, _)| name);
        Ok(names.filter(|name| !required.contains(name)).collect())
    }

    /// Returns the features beyond the core of WGSL that the headers of its fragments declare. A
    /// kernel may contain functions that no path calls, so it may use fewer.
    ///
    /// # Errors
    /// Returns the errors of [`resolve`](Self::resolve).
    pub fn features(&self) -> Result<BTreeSet<Feature>, ImportError> {
        Ok(self.parts()?.iter().flat_map(|(_, header)| header.features.iter().copied()).collect())
    }

    /// Returns what shapes, strides, the device and the order of kernels must be, a sentence each:
    /// the `Caller:` lines of the fragments with the values of their constants, then
    /// [`conditions`](Self::conditions).
    ///
    /// # Errors
    /// Returns the errors of [`resolve`](Self::resolve).
    pub fn requires(&self) -> Result<Vec<String>, ImportError> {
        let parts = self.parts()?;
        let callers = parts.iter().flat_map(|(_, header)| header.caller.iter().copied());
        let value = |text: &str| {
            if !text.contains('{') {
                return text.to_owned();
            }
            let replace = |text: String, (name, value): &(&str, Const)| {
                text.replace(&format!("{{{name}}}"), &value.to_string())
            };
            self.consts.iter().fold(text.to_string(), replace)
        };
        Ok(callers.map(value).chain(self.conditions.iter().cloned()).collect())
    }

    /// Returns how many storage buffers it binds.
    pub fn storage_buffers(&self) -> u32 {
        self.bindings.iter().filter(|binding| binding.is_storage()).count() as u32
    }

    /// Returns the binding of a role.
    pub fn binding(&self, role: BindingRole) -> Option<&Binding> {
        self.bindings.iter().find(|binding| binding.role == role)
    }

    /// Replaces the fragment that implements an interface of `other` by `other`.
    ///
    /// # Errors
    /// Returns [`ImportError::BadHeader`].
    pub fn substitute(&mut self, other: Fragment) -> Result<(), ImportError> {
        let new = imports::Header::of(&other)?;
        for fragment in &mut self.fragments {
            let header = imports::Header::of(fragment)?;
            if header.implements.iter().any(|interface| new.implements.contains(interface)) {
                *fragment = other;
            }
        }
        Ok(())
    }
}
