//! How the shader wants W to be stored, and what else it relies on its caller for.

use crate::format::{BLOCK_K, Element};
use crate::gpu::{Const, Shader};
use serde::Serialize;

/// The stored form of W that a kernel reads or writes: what a
/// [`DeviceLayout`](crate::format::DeviceLayout) says (ARCHITECTURE.md, Two layouts, draws it).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Stored {
    /// What a weight is stored as: f32, f16, int16, int8 or int4.
    pub element: &'static str,
    /// Whether it is 2:4 sparse: of four columns two are stored.
    pub two_four: bool,
    /// Bytes of codes of a block of 32 columns.
    pub block_bytes: u32,
    /// Rows that lie block by block and word by word side by side.
    pub panel: u32,
    /// What a scale is stored as; `None` for weights that have none.
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

fn flag(shader: &Shader, name: &str) -> bool {
    shader.consts.contains(&(name, Const::Bool(true)))
}

impl Stored {
    /// Of a kernel that looks at codes of W; `None` for the others.
    pub fn of(shader: &Shader) -> Option<Self> {
        let names = || shader.fragments.iter().map(|fragment| fragment.name);
        let (element, two_four) = match names().find_map(decoded) {
            Some(decoder) => decoder,
            // Those that look codes up one by one have them as constants.
            None => {
                let bits = number(shader, "ELEMENT_BITS").or(number(shader, "BITS"))?;
                let of =
                    |e: &Element| e.bits() == bits && e.is_integer() != flag(shader, "IS_FLOAT");
                let sparse = flag(shader, "SPARSE") || names().any(|n| n == "decode/general_24");
                (Element::ALL.into_iter().find(of)?, sparse)
            }
        };
        let columns = if two_four { BLOCK_K / 2 } else { BLOCK_K } as u32;
        Some(Self {
            element: element.name(),
            two_four,
            block_bytes: columns * element.bits() / 8,
            panel: number(shader, "PANEL").unwrap_or(1),
            scales: element.is_integer().then(|| match flag(shader, "F16_SCALES") {
                true => "f16",
                false => "f32",
            }),
            zero_points: flag(shader, "ASYMMETRIC"),
        })
    }
}

/// `decode/int4_24_pair` as int4 and 2:4.
fn decoded(fragment: &str) -> Option<(Element, bool)> {
    let mut parts = fragment.strip_prefix("decode/")?.split('_');
    let name = parts.next()?;
    let element = Element::ALL.into_iter().find(|element| element.name() == name)?;
    Some((element, parts.next() == Some("24")))
}

/// What a caller must see to, a sentence each: the `Caller:` lines of the fragments' headers, and
/// what constants stand for.
pub(super) fn requires(shader: &Shader) -> Vec<String> {
    let mut all: Vec<String> =
        shader.fragments.iter().flat_map(|fragment| fragment.caller()).map(Into::into).collect();
    if shader.consts.contains(&("RAGGED", Const::Bool(false))) {
        all.push("k is a multiple of 32".into());
    }
    for (constant, value) in &shader.consts {
        // `every subgroup has SUBGROUP lanes` with its number.
        if let Const::U32(value) = value {
            all.iter_mut().for_each(|text| *text = text.replace(constant, &value.to_string()));
        }
    }
    all.dedup();
    all
}
