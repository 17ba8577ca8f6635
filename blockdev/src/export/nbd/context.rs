//! Metadata contexts: what BLOCK_STATUS can be asked about.
//!
//! Pure. Queries in, contexts out; a device's status in, a context's flags out.

use super::proto::state;
use crate::device::BlockStatus;

/// A metadata context that is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Context {
    /// `base:allocation`: holes, and what reads as zeros.
    Allocation,
    /// `qemu:allocation-depth`: the layer that holds the data; 0 for none, 1 for the export itself.
    /// qemu's tools ask for it to tell what is allocated from what merely reads as zeros.
    AllocationDepth,
}

impl Context {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Allocation, Self::AllocationDepth];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allocation => "base:allocation",
            Self::AllocationDepth => "qemu:allocation-depth",
        }
    }

    /// Its number on every connection.
    pub const fn id(self) -> u32 {
        match self {
            Self::Allocation => 1,
            Self::AllocationDepth => 2,
        }
    }

    /// What it says of a range in this state.
    pub const fn flags(self, status: BlockStatus) -> u32 {
        match (self, status) {
            (Self::Allocation, BlockStatus::Data) | (Self::AllocationDepth, BlockStatus::Hole) => 0,
            (Self::Allocation, BlockStatus::Zero) => state::ZERO,
            (Self::Allocation, BlockStatus::Hole) => state::HOLE | state::ZERO,
            (Self::AllocationDepth, BlockStatus::Data | BlockStatus::Zero) => 1,
        }
    }

    /// Whether `query` is about it: by its whole name, or, where a list is asked for, by its
    /// namespace.
    fn is_meant_by(self, query: &str, listing: bool) -> bool {
        let name = self.name();
        query == name || (listing && query.ends_with(':') && name.starts_with(query))
    }

    const fn bit(self) -> u8 {
        1 << self.id()
    }
}

/// A set of contexts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Contexts(u8);

impl Contexts {
    /// All of them.
    pub const ALL: Self = Self(Context::Allocation.bit() | Context::AllocationDepth.bit());

    /// What a client chooses by `queries`.
    pub fn chosen(queries: &[String]) -> Self {
        Self::meant(queries, false)
    }

    /// What a client that asks for a list is shown: all, if it names none.
    pub fn listed(queries: &[String]) -> Self {
        if queries.is_empty() {
            return Self::ALL;
        }
        Self::meant(queries, true)
    }

    fn meant(queries: &[String], listing: bool) -> Self {
        let is_meant = |context: &Context| queries.iter().any(|q| context.is_meant_by(q, listing));
        Context::ALL.into_iter().filter(is_meant).collect()
    }

    /// Those of the set with these numbers; `None` if one of them is twice there or isn't in the
    /// set.
    pub fn narrowed(self, ids: impl IntoIterator<Item = u32>) -> Option<Self> {
        let mut narrowed = Self::default();
        for id in ids {
            let context = self.iter().find(|context| context.id() == id)?;
            if narrowed.0 & context.bit() != 0 {
                return None;
            }
            narrowed.0 |= context.bit();
        }
        Some(narrowed)
    }

    /// Whether none is in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Its members, in the order of their numbers.
    pub fn iter(self) -> impl Iterator<Item = Context> {
        let is_in = move |context: &Context| self.0 & context.bit() != 0;
        Context::ALL.into_iter().filter(is_in)
    }
}

impl FromIterator<Context> for Contexts {
    fn from_iter<T: IntoIterator<Item = Context>>(contexts: T) -> Self {
        Self(contexts.into_iter().fold(0, |set, c| set | c.bit()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(contexts: Contexts) -> Vec<&'static str> {
        contexts.iter().map(Context::name).collect()
    }

    fn queries(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn a_list_knows_wildcards_and_a_choice_only_names() {
        let (base, depth) = ("base:allocation", "qemu:allocation-depth");
        for (asked, listed, chosen) in [
            (&[][..], &[base, depth][..], &[][..]),
            (&["base:"], &[base], &[]),
            (&["qemu:", "base:"], &[base, depth], &[]),
            (&[depth], &[depth], &[depth]),
            (&[base, "x:y", base], &[base], &[base]),
            (
                &["", ":", "base", "base:alloc", "qemu:dirty-bitmap:"],
                &[],
                &[],
            ),
        ] {
            let asked = queries(asked);
            assert_eq!(names(Contexts::listed(&asked)), listed, "{asked:?}");
            assert_eq!(names(Contexts::chosen(&asked)), chosen, "{asked:?}");
        }
    }

    #[test]
    fn a_set_is_narrowed_to_members_each_named_once() {
        let one = Contexts::chosen(&queries(&["base:allocation"]));
        let both = Contexts::ALL;
        assert_eq!(both, Context::ALL.into_iter().collect());
        assert_eq!(one.narrowed([1]), Some(one));
        assert_eq!(both.narrowed([2, 1]), Some(both));
        assert_eq!(one.narrowed([2]), None, "not chosen");
        assert_eq!(both.narrowed([1, 1]), None, "twice");
        assert_eq!(both.narrowed([0]), None, "unknown");
    }
}
