use crate::gpu::Feature;
use naga::{Expression, MathFunction, Module, ScalarKind, Statement, TypeInner};
use std::collections::BTreeSet;

/// Returns the directive by which WGSL for browsers asks for a feature.
pub(super) const fn web_directive(feature: Feature) -> Option<&'static str> {
    match feature {
        Feature::F16 => Some("enable f16;"),
        Feature::Subgroups => Some("enable subgroups;"),
        Feature::SubgroupId => Some("requires subgroup_id;"),
        Feature::PackedDot => Some("requires packed_4x8_integer_dot_product;"),
        Feature::ReadTexture => Some("requires readonly_and_readwrite_storage_textures;"),
        Feature::Int64 | Feature::Matrix8 | Feature::Matrix16 => None,
    }
}

/// Returns the features that a module uses.
pub(super) fn of(module: &Module) -> BTreeSet<Feature> {
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
    if found.contains(&Feature::SubgroupId) {
        found.insert(Feature::Subgroups);
    }
    found
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
