use naga::{Expression, MathFunction, Module, ScalarKind, Statement, TypeInner};
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;

/// What a shader uses beyond the core of WGSL, as naga's module of it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Feature {
    /// 16-bit floats as a type. (Halves of a word, which most kernels read, are no such type.)
    F16,
    /// 64-bit integers.
    Int64,
    /// Sums and shuffles within a subgroup, or a lane's number in it.
    Subgroups,
    /// A subgroup's number in its workgroup, and how many there are.
    SubgroupId,
    /// Products of four packed bytes.
    PackedDot,
    /// Textures of u32 that are read without a sampler.
    ReadTexture,
    /// Cooperative matrices of 8 × 8.
    Matrix8,
    /// Cooperative matrices of 16 × 16.
    Matrix16,
}

impl Feature {
    /// Every feature.
    pub const ALL: [Self; 8] = [
        Self::F16,
        Self::Int64,
        Self::Subgroups,
        Self::SubgroupId,
        Self::PackedDot,
        Self::ReadTexture,
        Self::Matrix8,
        Self::Matrix16,
    ];

    /// The name, as errors and JSON have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Int64 => "int64",
            Self::Subgroups => "subgroups",
            Self::SubgroupId => "subgroup-id",
            Self::PackedDot => "packed-dot",
            Self::ReadTexture => "read-texture",
            Self::Matrix8 => "matrix8",
            Self::Matrix16 => "matrix16",
        }
    }

    /// The directive by which WGSL for browsers asks for it.
    pub(super) const fn web_directive(self) -> Option<&'static str> {
        match self {
            Self::F16 => Some("enable f16;"),
            Self::Subgroups => Some("enable subgroups;"),
            Self::SubgroupId => Some("requires subgroup_id;"),
            Self::PackedDot => Some("requires packed_4x8_integer_dot_product;"),
            Self::ReadTexture => Some("requires readonly_and_readwrite_storage_textures;"),
            Self::Int64 | Self::Matrix8 | Self::Matrix16 => None,
        }
    }

    /// What a module uses.
    pub(super) fn of(module: &Module) -> BTreeSet<Self> {
        let mut found = BTreeSet::new();
        for (_, ty) in module.types.iter() {
            found.extend(of_type(&ty.inner));
        }
        let functions = module.functions.iter().map(|(_, function)| function);
        for function in functions.chain(module.entry_points.iter().map(|e| &e.function)) {
            for argument in &function.arguments {
                if let Some(naga::Binding::BuiltIn(builtin)) = argument.binding {
                    found.extend(of_builtin(builtin));
                }
            }
            found.extend(function.expressions.iter().filter_map(|(_, e)| of_expression(e)));
            of_statements(&function.body, &mut found);
        }
        if found.contains(&Self::SubgroupId) {
            found.insert(Self::Subgroups);
        }
        found
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

fn of_type(inner: &TypeInner) -> Option<Feature> {
    match *inner {
        TypeInner::CooperativeMatrix { columns: naga::CooperativeSize::Eight, .. } => {
            Some(Feature::Matrix8)
        }
        TypeInner::CooperativeMatrix { .. } => Some(Feature::Matrix16),
        TypeInner::Image { class: naga::ImageClass::Storage { .. }, .. } => {
            Some(Feature::ReadTexture)
        }
        TypeInner::Scalar(scalar)
        | TypeInner::Vector { scalar, .. }
        | TypeInner::Matrix { scalar, .. }
        | TypeInner::Atomic(scalar) => match (scalar.kind, scalar.width) {
            (ScalarKind::Float, 2) => Some(Feature::F16),
            (ScalarKind::Sint | ScalarKind::Uint, 8) => Some(Feature::Int64),
            _ => None,
        },
        _ => None,
    }
}

fn of_builtin(builtin: naga::BuiltIn) -> Option<Feature> {
    match builtin {
        naga::BuiltIn::SubgroupSize | naga::BuiltIn::SubgroupInvocationId => {
            Some(Feature::Subgroups)
        }
        naga::BuiltIn::NumSubgroups | naga::BuiltIn::SubgroupId => Some(Feature::SubgroupId),
        _ => None,
    }
}

fn of_expression(expression: &Expression) -> Option<Feature> {
    match expression {
        Expression::Math {
            fun: MathFunction::Dot4I8Packed | MathFunction::Dot4U8Packed, ..
        } => Some(Feature::PackedDot),
        Expression::Literal(naga::Literal::F16(_)) => Some(Feature::F16),
        Expression::Literal(naga::Literal::I64(_) | naga::Literal::U64(_)) => Some(Feature::Int64),
        Expression::As { kind, convert: Some(width), .. } => match (kind, width) {
            (ScalarKind::Float, 2) => Some(Feature::F16),
            (ScalarKind::Sint | ScalarKind::Uint, 8) => Some(Feature::Int64),
            _ => None,
        },
        Expression::SubgroupBallotResult | Expression::SubgroupOperationResult { .. } => {
            Some(Feature::Subgroups)
        }
        _ => None,
    }
}

fn of_statements(block: &naga::Block, found: &mut BTreeSet<Feature>) {
    for statement in block {
        match statement {
            Statement::Block(block) => of_statements(block, found),
            Statement::If { accept, reject, .. } => {
                of_statements(accept, found);
                of_statements(reject, found);
            }
            Statement::Switch { cases, .. } => {
                cases.iter().for_each(|case| of_statements(&case.body, found));
            }
            Statement::Loop { body, continuing, .. } => {
                of_statements(body, found);
                of_statements(continuing, found);
            }
            Statement::ControlBarrier(barrier) if barrier.contains(naga::Barrier::SUB_GROUP) => {
                found.insert(Feature::Subgroups);
            }
            Statement::SubgroupBallot { .. }
            | Statement::SubgroupGather { .. }
            | Statement::SubgroupCollectiveOperation { .. } => {
                found.insert(Feature::Subgroups);
            }
            _ => {}
        }
    }
}
