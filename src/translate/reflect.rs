use crate::gpu::{Access, KernelDesc};
use naga::{AddressSpace, GlobalVariable, Handle, Module, Type, TypeInner};
use serde::Serialize;

/// The kind of a binding in the layout of a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BindingKind {
    /// A uniform buffer.
    Uniform,
    /// A storage buffer that is read.
    ReadStorage,
    /// A storage buffer that is written, and perhaps read too.
    Storage,
    /// A 2D texture of four u32 a texel, read without a sampler.
    ReadTexture,
}

/// A field of a structure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Field {
    /// The name in the shader.
    pub name: String,
    /// The type in WGSL.
    #[serde(rename = "type")]
    pub ty: String,
    /// The offset in the structure in bytes.
    pub offset: u32,
    /// The size in bytes.
    pub size: u32,
    /// The comment in the source of the shader; empty if there is none.
    pub comment: String,
}

/// A binding of the shader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BoundResource {
    /// The bind group, which is 0 in all kernels.
    pub group: u32,
    /// The number in the group.
    pub binding: u32,
    /// The name of the variable in the shader; empty if the shader does not declare one.
    pub name: String,
    /// The kind in the layout of the pipeline.
    pub kind: BindingKind,
    /// Where it is bound in the output, in the syntax of the target's language, for example
    /// `register(t3)`.
    pub slot: String,
    /// The type in WGSL.
    #[serde(rename = "type")]
    pub ty: String,
    /// The least size of the buffer in bytes: that of the structure or of one element. 0 for a
    /// texture.
    pub min_size: u32,
    /// Whether wgpu's layout gives it a dynamic offset. Without wgpu, any way to bind the bytes will
    /// do.
    pub dynamic_offset: bool,
    /// Whether the kernel reads or writes it. An unused binding may be missing from the output, but
    /// is part of a layout for several kernels.
    pub used: bool,
    /// What the binding holds.
    pub holds: &'static str,
    /// The fields, if the type is a structure.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<Field>,
}

/// Returns the bindings of a kernel. `compact` is the module without unused items.
pub(super) fn bindings(
    shader: &KernelDesc,
    source: &str,
    module: &Module,
    compact: &Module,
) -> Vec<BoundResource> {
    let global = |module: &Module, number: u32| {
        let mut globals = module.global_variables.iter();
        globals.find(|(_, g)| g.binding.is_some_and(|b| b.binding == number)).map(|(h, _)| h)
    };
    let mut all = Vec::new();
    for binding in &shader.bindings {
        let number = binding.number;
        let (kind, declared) = match binding.access {
            Access::Uniform | Access::DynamicUniform => {
                (BindingKind::Uniform, binding.uniform_bytes())
            }
            Access::Read => (BindingKind::ReadStorage, 4),
            Access::Write => (BindingKind::Storage, 4),
            Access::Texture => (BindingKind::ReadTexture, 0),
        };
        let found = global(module, number).map(|handle| &module.global_variables[handle]);
        let (name, ty, min_size, fields) = match found {
            Some(global) => (
                global.name.clone().unwrap_or_default(),
                type_name(module, global.ty),
                least(module, global),
                fields(module, global.ty, source),
            ),
            None => (String::new(), String::new(), declared, Vec::new()),
        };
        all.push(BoundResource {
            group: 0,
            binding: number,
            holds: match found {
                Some(_) => binding.role.holds(),
                None => "nothing: the kernel does not look at it",
            },
            name,
            kind,
            slot: String::new(),
            ty,
            min_size,
            dynamic_offset: binding.access == Access::DynamicUniform,
            used: global(compact, number).is_some(),
            fields,
        });
    }
    all
}

/// Returns the least size of a binding in bytes, so that it holds one element.
fn least(module: &Module, global: &GlobalVariable) -> u32 {
    match module.types[global.ty].inner {
        TypeInner::Array { stride, size: naga::ArraySize::Dynamic, .. } => stride,
        TypeInner::Image { .. } => 0,
        ref inner => inner.size(module.to_ctx()),
    }
}

/// Returns the number of bytes of workgroup memory, if each variable is aligned to 16 bytes.
pub(super) fn workgroup_memory(module: &Module) -> u32 {
    let shared = module.global_variables.iter().filter(|(_, g)| g.space == AddressSpace::WorkGroup);
    let size = |g: &GlobalVariable| module.types[g.ty].inner.size(module.to_ctx());
    shared.map(|(_, g)| size(g).next_multiple_of(16)).sum()
}

/// A type in WGSL.
fn type_name(module: &Module, handle: Handle<Type>) -> String {
    let ty = &module.types[handle];
    match &ty.inner {
        TypeInner::Scalar(s) => scalar(*s),
        TypeInner::Vector { size, scalar: s } => format!("vec{}<{}>", *size as u8, scalar(*s)),
        TypeInner::Atomic(s) => format!("atomic<{}>", scalar(*s)),
        TypeInner::Array { base, size, .. } => match size {
            naga::ArraySize::Constant(n) => format!("array<{}, {n}>", type_name(module, *base)),
            _ => format!("array<{}>", type_name(module, *base)),
        },
        // The only image type of this crate; see `gpu::Access::Texture`.
        TypeInner::Image { .. } => "texture_storage_2d<rgba32uint, read>".into(),
        _ => ty.name.clone().unwrap_or_default(),
    }
}

fn scalar(scalar: naga::Scalar) -> String {
    let kind = match scalar.kind {
        naga::ScalarKind::Sint => "i",
        naga::ScalarKind::Uint => "u",
        naga::ScalarKind::Float => "f",
        _ => return "bool".into(),
    };
    format!("{kind}{}", 8 * u32::from(scalar.width))
}

fn fields(module: &Module, handle: Handle<Type>, source: &str) -> Vec<Field> {
    let TypeInner::Struct { members, .. } = &module.types[handle].inner else {
        return Vec::new();
    };
    let text = module.types.get_span(handle).to_range().and_then(|range| source.get(range));
    members
        .iter()
        .map(|member| {
            let name = member.name.clone().unwrap_or_default();
            Field {
                ty: type_name(module, member.ty),
                offset: member.offset,
                size: module.types[member.ty].inner.size(module.to_ctx()),
                comment: comment(text.unwrap_or_default(), &name),
                name,
            }
        })
        .collect()
}

/// Returns the comment after the declaration of a field, or on the lines before it.
fn comment(structure: &str, field: &str) -> String {
    let mut above: Vec<&str> = Vec::new();
    for line in structure.lines().map(str::trim) {
        if let Some(comment) = line.strip_prefix("//") {
            above.push(comment.trim());
            continue;
        }
        if line.strip_prefix(field).is_some_and(|rest| rest.trim_start().starts_with(':')) {
            return match line.split_once("//") {
                Some((_, comment)) => comment.trim().into(),
                None => above.join(" "),
            };
        }
        above.clear();
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_belong_to_fields() {
        let text = "struct A {\n    a: u32, // first\n    ab: u32,\n    // of b\n    // still\n\
                    \u{20}   b : f32,\n    c: f32,\n}";
        let of = |field| comment(text, field);
        assert_eq!([of("a"), of("ab"), of("b"), of("c")], ["first", "", "of b still", ""]);
        assert_eq!(of("d"), "");
    }
}
