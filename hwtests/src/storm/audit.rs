//! What must hold of the disks themselves at the end of a history: P and Q of every written row match
//! its data, mirrors are equal, and every extent is free or somebody's.
//!
//! After a clean stop only: until then what is right may still be in the journal.

use cairn_blockdev::sim::SimDisk;
use cairn_blockdev::units::{u64_of, usize_of};
use cairn_raid::{Geometry, Level, MemberState, Role, Row, Slot, parity};

use super::world::World;

impl World {
    /// Stops the array and audits its disks. It stays stopped.
    pub fn stop_and_audit(&mut self) {
        let array = self.array();
        if let Err(error) = self.run(array.drain()) {
            panic!("what is logged can't be put in place: {error}");
        }
        self.audit_space();
        let status = array.status();
        let rows = array.written_rows();
        let mut slots: Vec<Option<(usize, u64)>> = vec![None; status.members_total];
        for index in self.in_state(MemberState::InSync) {
            let path = self.path(index);
            let member = status.members.iter().find(|m| m.path == *path);
            let place = member.and_then(|m| m.slot).and_then(|s| slots.get_mut(s));
            if let Some(place) = place {
                *place = Some((index, self.data_offset(index)));
            }
        }
        drop(array);
        if !self.stop() {
            return;
        }
        let geometry = Geometry::new(status.level, status.members_total, self.shape.chunk_bytes)
            .unwrap_or_else(|error| panic!("{error}"));
        for row in rows {
            let chunk_of = |slot: Slot| {
                let (index, data) = (*slots.get(slot.0)?)?;
                Some(chunk(&self.disk(index), data, &geometry, row))
            };
            audit_row(&geometry, row, chunk_of);
        }
    }

    /// Total, free and mapped space agree.
    fn audit_space(&self) {
        let array = self.array();
        let space = array.status().space;
        let mapped: u64 = array.volumes().iter().map(|v| v.allocated_bytes).sum();
        assert_eq!(
            space.total_bytes - space.free_bytes,
            mapped,
            "space that is neither free nor a volume's"
        );
    }
}

fn chunk(disk: &SimDisk, data_offset: u64, geometry: &Geometry, row: Row) -> Vec<u8> {
    let bytes = geometry.chunk_bytes();
    disk.peek(data_offset + row.0 * bytes, usize_of(bytes))
}

fn audit_row(geometry: &Geometry, row: Row, chunk_of: impl Fn(Slot) -> Option<Vec<u8>>) {
    let slots = (0..geometry.members()).map(Slot);
    if geometry.level() == Level::Raid1 {
        let copies: Vec<_> = slots.filter_map(chunk_of).collect();
        let equal = copies.iter().all(|copy| Some(copy) == copies.first());
        assert!(equal, "mirrors differ in {row:?}");
        return;
    }
    let mut data: Vec<(usize, Vec<u8>)> = Vec::new();
    let (mut p, mut q) = (None, None);
    for slot in slots {
        let chunk = chunk_of(slot);
        match (geometry.role(row, slot), chunk) {
            (Role::Data(i), Some(chunk)) => data.push((i, chunk)),
            (Role::P, chunk) => p = chunk,
            (Role::Q, chunk) => q = chunk,
            (Role::Data(_), None) => {}
        }
    }
    data.sort_by_key(|(i, _)| *i);
    if data.len() < geometry.data_chunks() {
        // With members missing there is nothing to compare, unless P gives the lost chunk and Q
        // has to agree.
        if let (Some(p), Some(q)) = (p, q)
            && data.len() + 1 == geometry.data_chunks()
        {
            let gone = (0..geometry.data_chunks()).find(|i| data.iter().all(|(at, _)| at != i));
            let mut lost = p;
            for (_, chunk) in &data {
                parity::xor_into(&mut lost, chunk);
            }
            let at = gone.unwrap_or_default();
            data.insert(at.min(data.len()), (at, lost));
            let mut want = vec![0; usize_of(geometry.chunk_bytes())];
            parity::compute_q(data.iter().map(|(_, chunk)| chunk.as_slice()), &mut want);
            assert!(q == want, "P and Q disagree in {row:?}");
        }
        return;
    }
    let mut want = vec![0; usize_of(geometry.chunk_bytes())];
    let sources = || data.iter().map(|(_, chunk)| chunk.as_slice());
    if let Some(p) = p {
        parity::compute_p(sources(), &mut want);
        assert!(p == want, "P is wrong in {row:?}");
    }
    if let Some(q) = q {
        parity::compute_q(sources(), &mut want);
        assert!(q == want, "Q is wrong in {row:?}");
    }
    debug_assert_eq!(u64_of(want.len()), geometry.chunk_bytes());
}
