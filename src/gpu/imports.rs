//! The headers of shader fragments, and how composition resolves what they require.
//!
//! A fragment opens with comment lines. Lines that begin with one of the keys below are read by
//! programs; a list is separated by commas, may go on over several lines, and ends with a period at
//! the end of a line. Everything else is prose.
//!
//! - `Requires: lib/half, decoder, const PANEL.` What has a slash is a fragment, which composition
//!   adds by itself. A plain word is an *interface*: some function or variable that several
//!   fragments provide. The kernel chooses one of them, and composition checks that there is exactly
//!   one. `const NAME` must be among the constants of the kernel. `nothing` stands for an empty
//!   list.
//! - `Implements: decoder, scale.` The interfaces that this fragment provides.
//! - `Features: int64.` The [`Feature`]s that it uses.
//! - `Enables: f16.` The WGSL extensions that an `enable` directive must name.
//! - `Caller: k is even.` What whoever binds and records must see to. `{NAME}` stands for the
//!   value of a constant.

use super::fragments::FRAGMENTS;
use super::{Feature, Fragment};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

/// The fragments that a kernel names do not make a shader.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// A fragment that does not exist.
    #[error("{by} requires the fragment {name}, which does not exist")]
    NoFragment {
        /// The fragment's name.
        name: String,
        /// The fragment whose header names it.
        by: &'static str,
    },
    /// An interface that no fragment of the kernel implements.
    #[error("{by} requires `{interface}`, which no fragment of this kernel implements")]
    NotImplemented {
        /// The interface.
        interface: &'static str,
        /// The fragment whose header names it.
        by: &'static str,
    },
    /// An interface that several fragments of the kernel implement.
    #[error("{by} requires `{interface}`, which both {first} and {second} implement")]
    Ambiguous {
        /// The interface.
        interface: &'static str,
        /// The fragment whose header names it.
        by: &'static str,
        /// One that implements it.
        first: &'static str,
        /// Another one.
        second: &'static str,
    },
    /// A constant that the kernel does not define.
    #[error("{by} requires the constant {name}, which this kernel does not define")]
    NoConst {
        /// The constant.
        name: &'static str,
        /// The fragment whose header names it.
        by: &'static str,
    },
    /// A header with something else than names in a list of names.
    #[error("the header of {fragment} lists `{item}`, which is not a name")]
    BadHeader {
        /// The fragment.
        fragment: &'static str,
        /// The item that is not a name.
        item: &'static str,
    },
}

/// One item of a `Requires:` list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Requirement {
    Fragment(&'static str),
    Interface(&'static str),
    Const(&'static str),
}

impl Header {
    /// The constants that the fragment requires.
    pub fn consts(&self) -> impl Iterator<Item = &'static str> {
        self.requires.iter().filter_map(|requirement| match requirement {
            Requirement::Const(name) => Some(*name),
            Requirement::Fragment(_) | Requirement::Interface(_) => None,
        })
    }
}

/// The lists in the header of a fragment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    requires: Vec<Requirement>,
    pub implements: Vec<&'static str>,
    pub features: Vec<Feature>,
    pub enables: Vec<&'static str>,
    /// Sentences without their period.
    pub caller: Vec<&'static str>,
}

/// A fragment with its header.
type Known = (Fragment, Result<Arc<Header>, ImportError>);

/// The fragments of this crate by their names.
static KNOWN: LazyLock<HashMap<&str, Known>> = LazyLock::new(|| {
    let known = |f: &Fragment| (f.name, (*f, Header::read(f).map(Arc::new)));
    FRAGMENTS.iter().map(known).collect()
});

impl Header {
    /// Returns the header of a fragment, read once for those of this crate.
    pub fn of(fragment: &Fragment) -> Result<Arc<Self>, ImportError> {
        match KNOWN.get(fragment.name) {
            Some((known, header)) if std::ptr::eq(known.text, fragment.text) => header.clone(),
            _ => Self::read(fragment).map(Arc::new),
        }
    }

    fn read(fragment: &Fragment) -> Result<Self, ImportError> {
        let mut header = Self::default();
        let mut lines = fragment.text.lines().map_while(|line| line.strip_prefix("//"));
        while let Some(line) = lines.next() {
            let Some((key, first)) = line.strip_prefix(' ').and_then(|l| l.split_once(": ")) else {
                continue;
            };
            if key == "Caller" {
                header.caller.push(first.trim_end().trim_end_matches('.'));
                continue;
            }
            if !matches!(key, "Requires" | "Implements" | "Features" | "Enables") {
                continue;
            }
            let mut line = first.trim();
            loop {
                for item in line.trim_end_matches('.').split(',').map(str::trim) {
                    header.add(key, item, fragment.name)?;
                }
                if line.ends_with('.') {
                    break;
                }
                line = lines.next().map(str::trim).unwrap_or(".");
            }
        }
        Ok(header)
    }

    fn add(
        &mut self,
        key: &str,
        item: &'static str,
        fragment: &'static str,
    ) -> Result<(), ImportError> {
        let bad = || Err(ImportError::BadHeader { fragment, item });
        let is_name = |name: &str| {
            let part = |c: char| c.is_ascii_alphanumeric() || "_/-".contains(c);
            !name.is_empty() && name.chars().all(part)
        };
        // The comma before a line break leaves an empty item.
        if item.is_empty() || key == "Requires" && item == "nothing" {
            return Ok(());
        }
        let (name, is_const) = match item.strip_prefix("const ") {
            Some(name) => (name, key == "Requires"),
            None => (item, false),
        };
        if !is_name(name) || name == "const" || (name != item && !is_const) {
            return bad();
        }
        match key {
            "Requires" if is_const => self.requires.push(Requirement::Const(name)),
            "Requires" if name.contains('/') => self.requires.push(Requirement::Fragment(name)),
            "Requires" => self.requires.push(Requirement::Interface(name)),
            "Implements" => self.implements.push(name),
            "Enables" => self.enables.push(name),
            _ => match Feature::find(name) {
                Some(feature) => self.features.push(feature),
                None => return bad(),
            },
        }
        Ok(())
    }
}

/// Returns the fragments that `roots` and their imports amount to, each once: a fragment follows
/// those that it requires by name, and roots keep their order. A root stands for an imported
/// fragment of the same name.
pub(super) fn resolve(
    roots: &[Fragment],
    consts: &[&'static str],
) -> Result<Vec<(Fragment, Arc<Header>)>, ImportError> {
    let mut all = Imports { roots, entered: Vec::new(), resolved: Vec::new() };
    for root in roots {
        all.enter(root)?;
    }
    let resolved = all.resolved;
    for (fragment, header) in &resolved {
        let by = fragment.name;
        for &requirement in &header.requires {
            match requirement {
                Requirement::Const(name) if !consts.contains(&name) => {
                    return Err(ImportError::NoConst { name, by });
                }
                Requirement::Interface(interface) => {
                    let implements = |(_, header): &&(Fragment, Arc<Header>)| {
                        header.implements.contains(&interface)
                    };
                    let mut found = resolved.iter().filter(implements).map(|(f, _)| f.name);
                    match (found.next(), found.next()) {
                        (Some(_), None) => {}
                        (None, _) => return Err(ImportError::NotImplemented { interface, by }),
                        (Some(first), Some(second)) => {
                            return Err(ImportError::Ambiguous { interface, by, first, second });
                        }
                    }
                }
                Requirement::Const(_) | Requirement::Fragment(_) => {}
            }
        }
    }
    Ok(resolved)
}

struct Imports<'a> {
    roots: &'a [Fragment],
    /// Fragments may require each other: a decoder and what all decoders share do.
    entered: Vec<&'static str>,
    resolved: Vec<(Fragment, Arc<Header>)>,
}

impl Imports<'_> {
    fn enter(&mut self, fragment: &Fragment) -> Result<(), ImportError> {
        if self.entered.contains(&fragment.name) {
            return Ok(());
        }
        self.entered.push(fragment.name);
        let header = Header::of(fragment)?;
        for requirement in &header.requires {
            let Requirement::Fragment(name) = *requirement else { continue };
            let root = self.roots.iter().find(|f| f.name == name).copied();
            match root.or_else(|| KNOWN.get(name).map(|(fragment, _)| *fragment)) {
                Some(import) => self.enter(&import)?,
                None => {
                    let (name, by) = (name.to_string(), fragment.name);
                    return Err(ImportError::NoFragment { name, by });
                }
            }
        }
        self.resolved.push((*fragment, header));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn file(name: &'static str, text: &'static str) -> Fragment {
        Fragment { name, text }
    }

    const PART: Fragment =
        file("t/part", "// A part.\n// Requires: const N.\n// Implements: part.\n");
    const OTHER: Fragment = file("t/other", "// Requires: nothing.\n// Implements: part, more.\n");
    const MAIN: Fragment = file(
        "t/main",
        "// The whole.\n// Requires: t/part,\n// part, lib/half.\n// Caller: k is 1.\n",
    );

    fn names(
        roots: &[Fragment],
        consts: &[&'static str],
    ) -> Result<Vec<&'static str>, ImportError> {
        let resolved = resolve(roots, consts)?;
        Ok(resolved.into_iter().map(|(fragment, _)| fragment.name).collect())
    }

    #[test]
    fn imports_come_first_and_once() {
        assert_eq!(names(&[MAIN, PART], &["N"]), Ok(vec!["t/part", "lib/half", "t/main"]));
        assert_eq!(names(&[PART, MAIN], &["N"]), Ok(vec!["t/part", "lib/half", "t/main"]));
        assert_eq!(Header::of(&MAIN).unwrap().caller, ["k is 1"]);
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = |roots: &[Fragment], consts| names(roots, consts).unwrap_err().to_string();
        assert!(error(&[MAIN], &["N"]).contains("t/main requires the fragment t/part"));
        assert!(error(&[MAIN, PART], &[]).contains("t/part requires the constant N"));
        let both = error(&[MAIN, PART, OTHER], &["N"]);
        assert!(both.contains("both t/part and t/other implement"), "{both}");
        let lonely = file("t/lonely", "// Requires: more.\n");
        assert!(error(&[lonely], &[]).contains("`more`, which no fragment"));
        let prose = file("t/prose", "// Requires: an X fragment.\n");
        assert!(error(&[prose], &[]).contains("`an X fragment`"));
    }

    #[test]
    fn every_header_is_read() {
        for fragment in FRAGMENTS {
            let header = Header::of(fragment).unwrap_or_else(|error| panic!("{error}"));
            let text = fragment.text;
            assert!(text.starts_with("// "), "{} opens with no comment", fragment.name);
            assert_eq!(text.matches("\n// Requires: ").count(), 1, "{}", fragment.name);
            for requirement in &header.requires {
                let Requirement::Fragment(name) = requirement else { continue };
                assert!(FRAGMENTS.iter().any(|f| f.name == *name), "{}: {name}", fragment.name);
            }
        }
    }
}
