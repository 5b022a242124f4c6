//! How the shader wants W to be stored, and what else it relies on its caller for.

use crate::format::{BLOCK_K, CodeType};
use crate::gpu::{Const, Shader};
use serde::Serialize;

/// The stored form of W that a kernel reads or writes: what a
/// [`DeviceLayout`](crate::format::DeviceLayout) says (ARCHITECTURE.md, Two layouts, draws it).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Stored {
    /// What a weight is stored as: f32, f16, int16, int8 or int4. Both of 16 bits where the kernel
    /// only moves codes.
    pub element: Vec<&'static str>,
    /// Whether it is 2:4 sparse: of four columns two are stored.
    pub two_four: bool,
    /// Bytes of codes of a block of 32 columns.
    pub block_bytes: u32,
    /// Rows that lie block by block and word by word side by side.
    pub panel: u32,
    /// What a scale is stored as; `None` for floats, which have none.
    pub scales: Option<&'static str>,
    /// Whether zero points are stored.
    pub zero_points: bool,
}

fn number(shader: &Shader, name: &str) -> Option<u32> {
    shader.consts.iter().find_map(|&(constant, value)| match value {
        Const::U32(value) if constant == name => Some(value),
        _ => None,
    })
}

fn flag(shader: &Shader, name: &str) -> Option<bool> {
    shader.consts.iter().find_map(|&(constant, value)| match value {
        Const::Bool(value) if constant == name => Some(value),
        _ => None,
    })
}

impl Stored {
    /// Of a kernel that looks at codes of W; `None` for the others.
    pub fn of(shader: &Shader) -> Option<Self> {
        let names = || shader.fragments.iter().map(|fragment| fragment.name);
        let (elements, two_four) = match names().find_map(decoded) {
            Some((element, two_four)) => (vec![element], two_four),
            // Those that look codes up one by one have them as constants.
            None => {
                // Matmuls look up integers alone.
                let looked_up = number(shader, "BITS");
                let bits = number(shader, "ELEMENT_BITS").or(looked_up)?;
                let float = flag(shader, "IS_FLOAT").or(looked_up.map(|_| false));
                let of =
                    |e: &CodeType| e.bits() == bits && float.is_none_or(|f| f != e.is_integer());
                let sparse = flag(shader, "SPARSE") == Some(true);
                let elements = CodeType::ALL.into_iter().filter(of).collect();
                (elements, sparse || names().any(|name| name == "decode/general_24"))
            }
        };
        let columns = if two_four { BLOCK_K / 2 } else { BLOCK_K } as u32;
        let scaled = elements.iter().any(|element| element.is_integer());
        let f16_scales = flag(shader, "F16_SCALES") == Some(true);
        Some(Self {
            two_four,
            block_bytes: columns * elements.first()?.bits() / 8,
            element: elements.iter().map(|element| element.name()).collect(),
            panel: number(shader, "PANEL").unwrap_or(1),
            scales: scaled.then_some(if f16_scales { "f16" } else { "f32" }),
            zero_points: flag(shader, "ASYMMETRIC") == Some(true),
        })
    }
}

/// `decode/int4_24_pair` as int4 and 2:4.
fn decoded(fragment: &str) -> Option<(CodeType, bool)> {
    let mut parts = fragment.strip_prefix("decode/")?.split('_');
    let name = parts.next()?;
    let element = CodeType::ALL.into_iter().find(|element| element.name() == name)?;
    Some((element, parts.next() == Some("24")))
}

/// What a caller must see to, a sentence each: the `Caller:` lines of the fragments' headers, and
/// what constants stand for.
pub(super) fn requires(shader: &Shader) -> Vec<String> {
    let mut all: Vec<String> =
        shader.fragments.iter().flat_map(|fragment| fragment.caller()).map(Into::into).collect();
    let has = |name: &str| shader.fragments.iter().any(|fragment| fragment.name == name);
    let mut add = |on: bool, text: &str| all.extend(on.then(|| text.into()));
    // Loops over a row end with it in fake quantization, elsewhere with its last block.
    let whole = flag(shader, "RAGGED") == Some(false);
    add(whole && has("fake/code"), "k is a multiple of 4");
    add(whole && !has("fake/code"), "k is a multiple of 32");
    add(
        has("fake/code") && flag(shader, "ALIGNED") == Some(true),
        "group_size is a multiple of 4, or at least k",
    );
    match flag(shader, "GROUPED") {
        Some(false) => add(has("scale/aligned"), "W has one group a row"),
        _ => add(has("scale/aligned"), "groups of W are multiples of 32 columns, or one a row"),
    }
    // See `Groups`.
    for (side, constant) in [("W", "W_GROUPS"), ("X", "X_GROUPS")] {
        let groups = number(shader, constant);
        add(groups == Some(0), &format!("{side} has one group a row"));
        add(groups == Some(1), &format!("groups of {side} are the slices of K"));
        add(groups == Some(2), &format!("groups of {side} are whole slices of K, several or one"));
    }
    add(flag(shader, "X_ZEROS") == Some(false), "zero points of X are 0");
    add(flag(shader, "Y_ZEROS") == Some(false), "the zero point of Y is 0");
    for (constant, value) in &shader.consts {
        // `every subgroup has SUBGROUP lanes` with its number.
        if let Const::U32(value) = value {
            all.iter_mut().for_each(|text| *text = text.replace(constant, &value.to_string()));
        }
    }
    all
}
