//! Solving the lost blocks of one column whose parities may speak of different versions of its data:
//! pure.
//!
//! Parity goes in place before data, and a stop may come between any two sectors. So a sector of P or
//! Q speaks of what a note announced, of what an earlier note did, or of what lies in place; the notes'
//! sums tell which. A lost block that is to be solved is the same in all of them: who writes a block
//! has it in the journal.
//!
//! Does not know: disks, rows, where the blocks come from, which solution is right.

use std::collections::BTreeMap;

use cairn_blockdev::units::{BLOCK_BYTES, SECTOR, usize_of};
use cairn_blockdev::{Buf, BufPool, SharedBuf};

use crate::geometry::Role;
use crate::parity::{Word, coefficient, mul_into, xor_into};

/// Sectors of a block.
const SECTORS: usize = BLOCK_BYTES / 512;

/// The data blocks of a column, as far as anybody has them.
pub(crate) type Blocks = Vec<Option<SharedBuf>>;

/// A parity block in place.
pub(crate) struct Speaking {
    pub(crate) role: Role,
    pub(crate) block: SharedBuf,
    /// The version that each sector speaks of.
    pub(crate) of: [usize; SECTORS],
}

impl Speaking {
    /// By the sums that each version's note tells; what fits none speaks of the last version.
    pub(crate) fn new(role: Role, block: SharedBuf, notes: &[Option<&[u32]>]) -> Self {
        let mut of = [notes.len(); SECTORS];
        let sectors = block
            .chunks(usize_of(SECTOR))
            .map(cairn_blockdev::crc::crc32c);
        for (at, (place, sum)) in of.iter_mut().zip(sectors).enumerate() {
            let mut all = notes.iter();
            let fits = |sums: &[u32]| sums.get(at) == Some(&sum);
            if let Some(version) = all.position(|note| note.is_some_and(fits)) {
                *place = version;
            }
        }
        Self { role, block, of }
    }
}

/// One column.
pub(crate) struct Versions<'a> {
    pub(crate) pool: &'a BufPool,
    /// What the column is to hold; `None` where it is lost.
    pub(crate) wanted: Blocks,
    /// What the parities may speak of, the last one being what lies in place; lost blocks are `None`.
    pub(crate) known: Vec<Blocks>,
    pub(crate) parities: Vec<Speaking>,
}

impl Versions<'_> {
    /// The lost blocks by index, from the parities in `roles`. `None` if these don't suffice.
    pub(crate) fn solve(&self, roles: &[Role]) -> Option<BTreeMap<usize, SharedBuf>> {
        let used: Vec<&Speaking> = self
            .parities
            .iter()
            .filter(|parity| roles.contains(&parity.role))
            .collect();
        let lost: Vec<usize> = (0..self.wanted.len())
            .filter(|index| self.wanted.get(*index).is_some_and(Option::is_none))
            .collect();
        let mut solved: BTreeMap<usize, Buf> = BTreeMap::new();
        for index in &lost {
            solved.insert(*index, self.pool.take(BLOCK_BYTES));
        }
        let mut solutions: BTreeMap<Vec<usize>, Blocks> = BTreeMap::new();
        for sector in 0..SECTORS {
            let of: Vec<usize> = used
                .iter()
                .filter_map(|parity| parity.of.get(sector).copied())
                .collect();
            if !solutions.contains_key(&of) {
                solutions.insert(of.clone(), self.solve_all(&used, &of)?);
            }
            let solution = solutions.get(&of)?;
            let range = sector * usize_of(SECTOR)..(sector + 1) * usize_of(SECTOR);
            for (index, block) in &mut solved {
                let from = solution.get(*index)?.as_ref()?.get(range.clone())?;
                block.get_mut(range.clone())?.copy_from_slice(from);
            }
        }
        let solved = solved.into_iter();
        Some(solved.map(|(index, buf)| (index, buf.freeze())).collect())
    }

    /// All data, if the parities speak of these versions throughout.
    fn solve_all(&self, used: &[&Speaking], of: &[usize]) -> Option<Blocks> {
        let renewed: Vec<(Role, Option<Buf>)> = used
            .iter()
            .zip(of)
            .map(|(parity, version)| {
                let known = self.known.get(*version);
                let renewed = known.and_then(|known| self.change(parity, known, &self.wanted));
                (parity.role, renewed)
            })
            .collect();
        self.solve_word(&self.wanted, renewed)
            .or_else(|| self.solve_with_old(used, of))
    }

    /// A parity that speaks of the old contents of a block, which nobody has any more, can't be brought up
    /// to date. They are one more unknown: the same one in all versions that have no other contents of it,
    /// as where the block was logged while a cycle computed its parities without it.
    fn solve_with_old(&self, used: &[&Speaking], of: &[usize]) -> Option<Blocks> {
        let versions = of.iter().map(|version| self.known.get(*version));
        let versions: Vec<&Blocks> = versions.collect::<Option<_>>()?;
        let target = *versions.first()?;
        let is_known =
            |known: &Blocks| -> Vec<bool> { known.iter().map(Option::is_some).collect() };
        if versions
            .iter()
            .any(|known| is_known(known) != is_known(target))
        {
            return None;
        }
        let brought = used
            .iter()
            .zip(&versions)
            .map(|(parity, known)| (parity.role, self.change(parity, known, target)));
        self.solve_word(target, brought)
    }

    fn solve_word(
        &self,
        data: &Blocks,
        parities: impl IntoIterator<Item = (Role, Option<Buf>)>,
    ) -> Option<Blocks> {
        let mut word = Word {
            data: data
                .iter()
                .map(|block| block.as_ref().map(|block| self.copy(block)))
                .collect(),
            p: None,
            q: None,
        };
        for (role, block) in parities {
            match role {
                Role::P => word.p = block,
                _ => word.q = block,
            }
        }
        word.solve_data(|| self.pool.take(BLOCK_BYTES)).ok()?;
        let data = word.data.into_iter();
        Some(data.map(|block| block.map(Buf::freeze)).collect())
    }

    /// A parity block that speaks of `from`, as if it spoke of `to` where that is known; `None` if that can't
    /// be told.
    fn change(&self, parity: &Speaking, from: &Blocks, to: &Blocks) -> Option<Buf> {
        let mut block = self.copy(&parity.block);
        for (index, (new, old)) in to.iter().zip(from).enumerate() {
            let Some(new) = new else {
                continue;
            };
            let mut change = self.copy(old.as_ref()?);
            xor_into(&mut change, new);
            let factor = match parity.role {
                Role::Q => coefficient(index),
                _ => 1,
            };
            mul_into(&mut block, &change, factor);
        }
        Some(block)
    }

    fn copy(&self, data: &[u8]) -> Buf {
        let mut copy = self.pool.take(data.len());
        copy.copy_from_slice(data);
        copy
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parity::{compute_p, compute_q};
    use proptest::prelude::*;

    const DATA: usize = 4;

    fn block(seed: u8) -> SharedBuf {
        let bytes: Vec<u8> = (0..BLOCK_BYTES)
            .map(|i| u8::try_from(i * 7 % 251).unwrap() ^ seed.wrapping_mul(73))
            .collect();
        Buf::copy_of(&bytes).freeze()
    }

    fn parity(role: Role, data: &[SharedBuf]) -> Vec<u8> {
        let mut parity = vec![0; BLOCK_BYTES];
        let sources = data.iter().map(|block| &**block);
        match role {
            Role::P => compute_p(sources, &mut parity),
            _ => compute_q(sources, &mut parity),
        }
        parity
    }

    fn sums(block: &[u8]) -> Vec<u32> {
        block.chunks(512).map(cairn_blockdev::crc::crc32c).collect()
    }

    proptest! {
        /// Three versions of a word; parities torn between all of them, sector by sector.
        #[test]
        fn lost_blocks_that_no_version_changes_are_solved_from_parities_torn_between_them(
            changed in prop::array::uniform2(0usize..DATA),
            lost_one in 0usize..DATA,
            lost_two in prop::option::of(0usize..DATA),
            torn in prop::array::uniform2(prop::array::uniform8(0usize..3)),
        ) {
            let lost: Vec<usize> = lost_two.into_iter().chain([lost_one]).collect();
            prop_assume!(changed.iter().all(|index| !lost.contains(index)));
            let in_place: Vec<SharedBuf> = (0..4).map(block).collect();
            let mut earlier = in_place.clone();
            earlier[changed[0]] = block(77);
            let mut newest = earlier.clone();
            newest[changed[1]] = block(99);
            let versions = [&newest, &earlier, &in_place];
            let pool = BufPool::new(1 << 20);
            let mut parities = Vec::new();
            for (role, torn) in [Role::P, Role::Q].into_iter().zip(torn) {
                let all: Vec<Vec<u8>> = versions.iter().map(|data| parity(role, data)).collect();
                let mut mixed = vec![0; BLOCK_BYTES];
                for (sector, version) in torn.iter().enumerate() {
                    let range = sector * 512..(sector + 1) * 512;
                    mixed[range.clone()].copy_from_slice(&all[*version][range]);
                }
                let notes = [sums(&all[0]), sums(&all[1])];
                let notes: Vec<Option<&[u32]>> = notes.iter().map(|sums| Some(&sums[..])).collect();
                parities.push(Speaking::new(role, Buf::copy_of(&mixed).freeze(), &notes));
            }
            let without = |data: &Vec<SharedBuf>| -> Blocks {
                let all = data.iter().enumerate();
                all.map(|(i, block)| (!lost.contains(&i)).then(|| block.clone())).collect()
            };
            let case = Versions {
                pool: &pool,
                wanted: without(&newest),
                known: versions.iter().map(|data| without(data)).collect(),
                parities,
            };
            let solved = case.solve(&[Role::P, Role::Q]).unwrap();
            for index in &lost {
                prop_assert!(solved[index][..] == newest[*index][..]);
            }
            if lost_two.is_none_or(|two| two == lost_one) {
                for role in [Role::P, Role::Q] {
                    prop_assert!(case.solve(&[role]).unwrap()[&lost_one][..] == newest[lost_one][..]);
                }
            } else {
                prop_assert!(case.solve(&[Role::P]).is_none());
            }
        }
    }

    proptest! {
        /// A block is logged while a cycle computes parities without it, and its member goes with another
        /// one: what P and Q say of its old contents is the same, whichever version they speak of.
        #[test]
        fn old_contents_that_are_gone_are_one_unknown_of_parities_torn_between_versions(
            order in Just([0usize, 1, 2, 3]).prop_shuffle(),
            torn in prop::array::uniform2(prop::array::uniform8(0usize..2)),
        ) {
            let [noted, logged, lost, _] = order;
            let in_place: Vec<SharedBuf> = (0..4).map(block).collect();
            let mut announced = in_place.clone();
            announced[noted] = block(77);
            let mut newest = announced.clone();
            newest[logged] = block(99);
            let pool = BufPool::new(1 << 20);
            let mut parities = Vec::new();
            for (role, torn) in [Role::P, Role::Q].into_iter().zip(torn) {
                let all = [parity(role, &announced), parity(role, &in_place)];
                let mut mixed = vec![0; BLOCK_BYTES];
                for (sector, version) in torn.iter().enumerate() {
                    let range = sector * 512..(sector + 1) * 512;
                    mixed[range.clone()].copy_from_slice(&all[*version][range]);
                }
                let note = sums(&all[0]);
                parities.push(Speaking::new(role, Buf::copy_of(&mixed).freeze(), &[Some(&note)]));
            }
            let without = |data: &Vec<SharedBuf>, gone: &[usize]| -> Blocks {
                let all = data.iter().enumerate();
                all.map(|(i, block)| (!gone.contains(&i)).then(|| block.clone())).collect()
            };
            let case = Versions {
                pool: &pool,
                wanted: without(&newest, &[lost]),
                known: vec![without(&announced, &[lost, logged]), without(&in_place, &[lost, logged])],
                parities,
            };
            let solved = case.solve(&[Role::P, Role::Q]).unwrap();
            prop_assert!(solved[&lost][..] == in_place[lost][..]);
            prop_assert!(case.solve(&[Role::P]).is_none());
        }
    }

    #[test]
    fn a_written_block_whose_old_contents_are_gone_is_one_more_unknown() {
        let old: Vec<SharedBuf> = (0..4).map(block).collect();
        let new = block(50);
        let pool = BufPool::new(1 << 20);
        let speaking = |role| {
            let parity = Buf::copy_of(&parity(role, &old)).freeze();
            Speaking::new(role, parity, &[None])
        };
        // Block 1 is lost; block 2 is in the journal, and its member is gone too.
        let wanted = vec![Some(old[0].clone()), None, Some(new), Some(old[3].clone())];
        let mut in_place = wanted.clone();
        in_place[2] = None;
        let case = Versions {
            pool: &pool,
            known: vec![wanted.clone(), in_place],
            wanted,
            parities: vec![speaking(Role::P), speaking(Role::Q)],
        };
        let solved = case.solve(&[Role::P, Role::Q]).unwrap();
        assert!(solved[&1][..] == old[1][..]);
        assert!(case.solve(&[Role::P]).is_none());
    }
}
