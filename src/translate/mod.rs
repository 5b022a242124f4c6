//! Kernels for engines that do not use wgpu: any [`KernelDesc`] of this crate as SPIR-V, MSL, HLSL,
//! GLSL ES or WGSL for browsers, written by naga, with everything that a host must know to run it.
//!
//! A kernel that a target cannot express is refused before anything is written, and the error names
//! the feature ([`TranslateError::Refused`]). naga would write wave operations for any shader model
//! and subgroups for SPIR-V 1.0.
//!
//! # Assumptions of the output
//!
//! - *Bounds checks are on*, as in wgpu: every index into a buffer, an array or a texture is clamped.
//!   naga has no bounds checks for GLSL ES; a context with robust buffer access clamps there. Whoever
//!   compiles WGSL adds the checks.
//! - *Workgroup memory is not cleared* at the start: every kernel writes it before it reads it.
//!   [`Kernels`](crate::gpu::Kernels) tells wgpu the same.
//! - *Loops are not bounded*: they end because of the parameters, which the host keeps below 2³¹.
//!   Parameters that the ops of this crate fill in are safe; with garbage a loop may not end.
//! - Divisions guard against zero.

mod feature;
mod reflect;
mod target;
mod write;

pub use reflect::{BindingKind, BoundResource, Field};
pub use target::{MslVersion, ShaderModel, SpirvVersion, Target, UnknownTarget};

pub use crate::gpu::{Feature, Stored};

use crate::gpu::{ImportError, KernelDesc, Wgsl};
use naga::front::wgsl;
use naga::valid::{
    Capabilities, ModuleInfo, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator,
};
use naga::{Module, compact};
use serde::Serialize;
use std::borrow::Cow;
use std::collections::BTreeSet;

/// Why a kernel could not be translated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TranslateError {
    /// The target lacks a feature that the kernel uses.
    #[error("{kernel} uses {feature}, which {target} lacks: this needs {needs}")]
    Refused {
        /// The kernel.
        kernel: String,
        /// The first feature that is missing.
        feature: Feature,
        /// The target that lacks it.
        target: Target,
        /// What supports it.
        needs: &'static str,
    },
    /// The fragments do not compose, or naga refused the composed shader. This is a defect of this
    /// crate, or of the caller's shader.
    #[error("naga refuses {kernel}: {message}")]
    Invalid {
        /// The kernel.
        kernel: String,
        /// naga's message, with lines traced to their files.
        message: String,
    },
    /// naga could not write what it had accepted.
    #[error("naga cannot write {kernel} as {target}: {message}")]
    Unwritten {
        /// The kernel.
        kernel: String,
        /// The target.
        target: Target,
        /// naga's message.
        message: String,
    },
}

/// The code of a translated shader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TranslatedCode {
    /// Source text.
    Text(String),
    /// The words of a SPIR-V module.
    Words(Vec<u32>),
}

impl TranslatedCode {
    /// Returns the contents of a file. Words are in little-endian order.
    pub fn bytes(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Text(text) => Cow::Borrowed(text.as_bytes()),
            Self::Words(words) => {
                Cow::Owned(words.iter().flat_map(|word| word.to_le_bytes()).collect())
            }
        }
    }

    /// Returns the text, unless it is SPIR-V.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Words(_) => None,
        }
    }
}

/// A buffer that naga's translation needs in addition to those of the shader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Extra {
    /// Where it is bound, in the syntax of the target's language.
    pub slot: String,
    /// What the buffer must hold.
    pub holds: &'static str,
    /// The bindings that it describes, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bindings: Vec<u32>,
}

/// A translated shader, and everything that a host must know to run it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Translated {
    /// The kernel id.
    pub kernel: String,
    /// What it was translated to.
    pub target: Target,
    /// The code.
    pub output: TranslatedCode,
    /// The name of the entry point, which cannot be `main` in Metal.
    pub entry_point: String,
    /// Invocations in a workgroup.
    pub workgroup_size: [u32; 3],
    /// Bytes of workgroup memory.
    pub workgroup_memory: u32,
    /// The features that the kernel uses beyond the core of WGSL.
    pub features: Vec<Feature>,
    /// The bindings by rising number.
    pub bindings: Vec<BoundResource>,
    /// Conditions on shapes, strides and the device, a sentence each.
    pub requires: Vec<String>,
    /// How W is stored, if the kernel looks at its codes.
    pub weights: Option<Stored>,
    /// One more buffer, if the target lacks a built-in that the kernel uses.
    pub extra: Option<Extra>,
}

/// A shader that naga has parsed, which can be translated to any number of targets.
#[derive(Clone, Debug)]
pub struct Parsed {
    kernel: String,
    wgsl: Wgsl,
    /// The module without unused functions, types and bindings.
    module: Module,
    info: ModuleInfo,
    /// The features of the whole source, used or not: a browser needs directives for all of it.
    written: BTreeSet<Feature>,
    used: BTreeSet<Feature>,
    bindings: Vec<BoundResource>,
    requires: Vec<String>,
    weights: Option<Stored>,
    workgroup_size: [u32; 3],
}

/// Translates one kernel to one target. Use [`Parsed`] for several targets.
///
/// # Errors
/// Returns [`TranslateError`].
pub fn translate(shader: &KernelDesc, target: Target) -> Result<Translated, TranslateError> {
    Parsed::new(shader)?.translate(target)
}

/// Returns what naga knows about a valid module, or its message with the lines of `source`.
fn validate(module: &Module, source: &str) -> Result<ModuleInfo, String> {
    Validator::new(ValidationFlags::all(), Capabilities::all())
        .subgroup_stages(ShaderStages::COMPUTE)
        .subgroup_operations(SubgroupOperationSet::all())
        .validate(module)
        .map_err(|error| error.emit_to_string(source))
}

impl Parsed {
    /// Composes and parses a kernel.
    ///
    /// # Errors
    /// Returns [`TranslateError::Invalid`].
    pub fn new(shader: &KernelDesc) -> Result<Self, TranslateError> {
        let kernel = shader.id.clone();
        let wrong = |error: ImportError| TranslateError::Invalid {
            kernel: kernel.clone(),
            message: error.to_string(),
        };
        let wgsl = shader.compose().map_err(wrong)?;
        let requires = shader.requires().map_err(wrong)?;
        let invalid = |message: String| TranslateError::Invalid {
            kernel: kernel.clone(),
            message: wgsl.explain(&message),
        };
        let options =
            wgsl::Options { parse_doc_comments: false, capabilities: Capabilities::all() };
        let whole = wgsl::Frontend::new_with_options(options)
            .parse(&wgsl.source)
            .map_err(|error| invalid(error.emit_to_string(&wgsl.source)))?;
        validate(&whole, &wgsl.source).map_err(invalid)?;
        let mut module = whole.clone();
        compact::compact(&mut module, compact::KeepUnused::No);
        let info = validate(&module, &wgsl.source).map_err(invalid)?;
        let main = module.entry_points.first();
        let main = main.ok_or_else(|| invalid("it has no entry point".into()))?;
        Ok(Self {
            written: feature::of(&whole),
            used: feature::of(&module),
            bindings: reflect::bindings(shader, &wgsl.source, &whole, &module),
            requires,
            weights: shader.weights.clone(),
            workgroup_size: main.workgroup_size,
            kernel,
            wgsl,
            module,
            info,
        })
    }

    /// Returns the features that the kernel uses beyond the core of WGSL.
    pub fn features(&self) -> impl Iterator<Item = Feature> {
        self.used.iter().copied()
    }

    /// Returns an error if the target lacks a feature that the kernel uses.
    ///
    /// # Errors
    /// Returns [`TranslateError::Refused`].
    pub fn check(&self, target: Target) -> Result<(), TranslateError> {
        let refused = |&feature: &Feature| target.lacks(feature).map(|needs| (feature, needs));
        // A browser also reads unused declarations.
        let features = match target {
            Target::WgslWeb => &self.written,
            _ => &self.used,
        };
        match features.iter().find_map(refused) {
            None => Ok(()),
            Some((feature, needs)) => {
                let kernel = self.kernel.clone();
                Err(TranslateError::Refused { kernel, feature, target, needs })
            }
        }
    }

    /// Translates the kernel to a target.
    ///
    /// # Errors
    /// Returns [`TranslateError::Refused`] and [`TranslateError::Unwritten`].
    pub fn translate(&self, target: Target) -> Result<Translated, TranslateError> {
        self.check(target)?;
        let (module, info) = (&self.module, &self.info);
        let mut bindings = self.bindings.clone();
        for bound in &mut bindings {
            bound.slot = format!("@group({}) @binding({})", bound.group, bound.binding);
        }
        let as_composed = |text| write::Written {
            output: TranslatedCode::Text(text),
            entry_point: "main".into(),
            extra: None,
        };
        let written = match target {
            Target::Wgsl => Ok(as_composed(self.wgsl.source.clone())),
            Target::WgslWeb => Ok(as_composed(self.for_browsers())),
            Target::WgslNaga => write::naga_wgsl(module, info),
            Target::Spirv(version) => write::spirv(module, info, version, &mut bindings),
            Target::Msl(version) => write::msl(module, info, version, &mut bindings),
            Target::Hlsl(version) => write::hlsl(module, info, version, &mut bindings),
            Target::Glsl => write::glsl(module, info, &mut bindings),
        };
        let kernel = self.kernel.clone();
        let written = written.map_err(|message| TranslateError::Unwritten {
            kernel: kernel.clone(),
            target,
            message,
        })?;
        Ok(Translated {
            kernel,
            target,
            output: written.output,
            entry_point: written.entry_point,
            workgroup_size: self.workgroup_size,
            workgroup_memory: reflect::workgroup_memory(module),
            features: self.used.iter().copied().collect(),
            bindings,
            requires: self.requires.clone(),
            weights: self.weights.clone(),
            extra: written.extra,
        })
    }

    /// Returns the source with the directives that browsers require. naga accepts only `enable
    /// f16;`, which the source has already.
    fn for_browsers(&self) -> String {
        let directives = self.written.iter().filter_map(|feature| feature::web_directive(*feature));
        let source = &self.wgsl.source;
        let mut lines: Vec<&str> = directives.filter(|line| !source.contains(line)).collect();
        // `enable` and `requires` may come in any order.
        lines.push(source);
        lines.join("\n")
    }
}
