use crate::gpu::{Access, KernelDesc};
use naga::{AddressSpace, GlobalVariable, Handle, Module, Type, TypeInner};
use serde::Serialize;

/// What a binding is to the pipeline's layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BindingKind {
    /// A uniform buffer.
    Uniform,
    /// A storage buffer that is read.
    ReadStorage,
    /// A storage buffer that is written, perhaps read too.
    Storage,
    /// A 2D texture of four u32 a texel, read without a sampler.
    ReadTexture,
}

/// A field of a structure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Field {
    /// Its name in the shader.
    pub name: String,
    /// Its type, as WGSL spells it.
    #[serde(rename = "type")]
    pub ty: String,
    /// Bytes from the start of the structure.
    pub offset: u32,
    /// Bytes of it.
    pub size: u32,
    /// What the shader's source says of it; empty where it says nothing.
    pub comment: String,
}

/// A binding of the shader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BoundResource {
    /// The bind group; 0 in all kernels.
    pub group: u32,
    /// The number in the group.
    pub binding: u32,
    /// The variable's name in the shader; empty where the shader has none.
    pub name: String,
    /// What it is to the pipeline's layout.
    pub kind: BindingKind,
    /// Where it stands in the output, in the words of the target's language: `register(t3)`, say.
    pub slot: String,
    /// The type, as WGSL spells it.
    #[serde(rename = "type")]
    pub ty: String,
    /// Bytes that the buffer must have at least: a structure's, or one element's. 0 of a texture.
    pub min_size: u32,
    /// Whether wgpu's layout gives it a dynamic offset. Without wgpu, any way to bind the bytes.
    pub dynamic_offset: bool,
    /// Whether the kernel reads or writes it. One that is not used may be missing from the output;
    /// a layout for several kernels has it all the same.
    pub used: bool,
    /// What it holds.
    pub holds: &'static str,
    /// The fields, where the type is a structure.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<Field>,
}

/// Bindings of a shader that is whole, of which `compact` keeps what is used.
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

/// Bytes that a binding needs so that one element is there.
fn least(module: &Module, global: &GlobalVariable) -> u32 {
    match module.types[global.ty].inner {
        TypeInner::Array { stride, size: naga::ArraySize::Dynamic, .. } => stride,
        TypeInner::Image { .. } => 0,
        ref inner => inner.size(module.to_ctx()),
    }
}

/// Bytes of workgroup memory, each variable at 16.
pub(super) fn workgroup_memory(module: &Module) -> u32 {
    let shared = module.global_variables.iter().filter(|(_, g)| g.space == AddressSpace::WorkGroup);
    let size = |g: &GlobalVariable| module.types[g.ty].inner.size(module.to_ctx());
    shared.map(|(_, g)| size(g).next_multiple_of(16)).sum()
}

/// A type as WGSL spells it.
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
        // The only one that there is; see `gpu::Access::Texture`.
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

/// The comment behind a field's declaration, or on the lines before it.
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
