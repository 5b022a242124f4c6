/// The memory layout of a uniform structure, as its Rust mirror has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UniformLayout {
    /// The name of the structure in WGSL.
    pub structure: &'static str,
    /// The shader fragment that declares it.
    pub fragment: &'static str,
    /// Size in bytes.
    pub size: u32,
    /// The fields in order. A Rust array of n words stands for n fields in WGSL.
    fields: &'static [(&'static [&'static str], usize)],
}

impl UniformLayout {
    /// A layout; the macro `uniform!` fills it in.
    pub(crate) const fn new(
        structure: &'static str,
        fragment: &'static str,
        size: usize,
        fields: &'static [(&'static [&'static str], usize)],
    ) -> Self {
        Self { structure, fragment, size: size as u32, fields }
    }

    /// Returns the WGSL names of the fields and their offsets in bytes, in order.
    pub fn fields(&self) -> impl Iterator<Item = (&'static str, u32)> {
        self.fields.iter().flat_map(|&(names, offset)| {
            // All fields are words.
            names.iter().zip(0..).map(move |(&name, index)| (name, offset as u32 + 4 * index))
        })
    }
}

/// Declares the Rust mirror of a uniform structure in WGSL: the struct, and a constant `LAYOUT` with
/// the names and offsets of its fields, which a test compares with naga's reflection. A field that
/// is an array of words lists the names of the words in WGSL.
macro_rules! uniform {
    (@names $field:ident) => { &[stringify!($field)] };
    (@names $field:ident $($part:literal)+) => { &[$($part),+] };
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident for $structure:literal in $fragment:literal {
            $($field:ident: $ty:ty $(= $($part:literal)+)?,)+
        }
    ) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
        $vis struct $name {
            $(pub $field: $ty,)+
        }

        impl $name {
            /// The layout that the shader must agree with.
            $vis const LAYOUT: $crate::gpu::UniformLayout = $crate::gpu::UniformLayout::new(
                $structure,
                $fragment,
                size_of::<Self>(),
                &[$((
                    $crate::gpu::uniform!(@names $field $($($part)+)?),
                    std::mem::offset_of!(Self, $field),
                )),+],
            );
        }
    };
}

pub(crate) use uniform;

#[cfg(test)]
mod tests {
    uniform! {
        /// A structure with an array.
        struct Params for "Params" in "lib/test" {
            k: u32,
            gain: f32,
            pad: [u32; 2] = "pad0" "pad1",
        }
    }

    #[test]
    fn a_layout_lists_every_word() {
        let layout = Params::LAYOUT;
        let fields: Vec<_> = layout.fields().collect();
        assert_eq!(fields, [("k", 0), ("gain", 4), ("pad0", 8), ("pad1", 12)]);
        assert_eq!((layout.structure, layout.fragment, layout.size), ("Params", "lib/test", 16));
    }
}
