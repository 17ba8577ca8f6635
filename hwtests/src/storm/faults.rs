//! The rows of the fault table, and what each takes away and needs. What they do: [`super::harm`].
//!
//! Does not know: in which state the array is, or what is promised then ([`super::matrix`]).

/// A row of the fault table, or one of its ways to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each is described by its plan")]
pub enum Fault {
    D1ReadFails,
    D1BadSectors,
    D2WriteFails,
    D2WriteFailsAndCrash,
    D3FlushFailsOnce,
    D3FlushFailsAlways,
    D4Hangs,
    D4Slow,
    D5TornWrite,
    D6LostWrite,
    D6LostMetaWrite,
    D7MisdirectedWrite,
    D7MisdirectedPage,
    D8RotInData,
    D8RotInLabel,
    D8RotInZones,
    D9VanishesAndReturns,
    D9CaughtUp,
    D10OrderAndClone,
    D11Full,
    D12CacheLost,
    D13LateWrite,
    A1CrashMidStripe,
    A2TwoAtOnce,
    A2ThreeAtOnce,
    A3CrashInRebuild,
    A4SpareFailsToo,
    A5LatentInRebuild,
    A7LabelsCorrupt,
    A8CrashAndMemberGone,
    A9TrimReuseCrash,
    A10OlderImage,
    H1Kill,
    H2PowerLoss,
    H3ClockJump,
    RingReadFails,
    RingWriteFails,
    RingWriteFailsAndCrash,
    RingFlushFailsOnce,
    RingFlushFailsAlways,
    RingHangs,
    RingSlow,
    RingLostWrites,
    RingRot,
    RingRotInLabel,
    RingVanishes,
    RingCacheLost,
    RingLateWrite,
    RingAllVanish,
    RingOlderImage,
    RingsGoneInCrash,
    RingsTooManyGone,
}

/// What a fault is, before it strikes.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Its row and a few words.
    pub name: &'static str,
    /// Members of one row that it takes away, for a moment or for good.
    pub disks: usize,
    /// Journal disks that it strikes; 0: it has nothing to do with them.
    pub rings: usize,
    /// Whether it takes checksums to survive it.
    pub checksums: bool,
    /// Whether the daemon is cut off in it.
    pub crashes: bool,
    /// Whether what it did may still lie there unnoticed when it is over.
    pub latent: bool,
    /// Whether random histories have it: those that aren't built of its parts anyway.
    pub story: bool,
}

const fn plan(name: &'static str, disks: usize) -> Plan {
    Plan {
        name,
        disks,
        rings: 0,
        checksums: false,
        crashes: false,
        latent: false,
        story: true,
    }
}

/// A fault of a journal disk.
const fn on_ring(name: &'static str) -> Plan {
    let mut plan = plan(name, 0);
    plan.rings = 1;
    plan
}

impl Plan {
    const fn crashing(mut self) -> Self {
        self.crashes = true;
        self.story = false;
        self
    }

    const fn by_checksums(mut self) -> Self {
        self.checksums = true;
        self
    }

    const fn latent(mut self) -> Self {
        self.latent = true;
        self
    }

    const fn apart(mut self) -> Self {
        self.story = false;
        self
    }
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 52] = [
        Self::D1ReadFails,
        Self::D1BadSectors,
        Self::D2WriteFails,
        Self::D2WriteFailsAndCrash,
        Self::D3FlushFailsOnce,
        Self::D3FlushFailsAlways,
        Self::D4Hangs,
        Self::D4Slow,
        Self::D5TornWrite,
        Self::D6LostWrite,
        Self::D6LostMetaWrite,
        Self::D7MisdirectedWrite,
        Self::D7MisdirectedPage,
        Self::D8RotInData,
        Self::D8RotInLabel,
        Self::D8RotInZones,
        Self::D9VanishesAndReturns,
        Self::D9CaughtUp,
        Self::D10OrderAndClone,
        Self::D11Full,
        Self::D12CacheLost,
        Self::D13LateWrite,
        Self::A1CrashMidStripe,
        Self::A2TwoAtOnce,
        Self::A2ThreeAtOnce,
        Self::A3CrashInRebuild,
        Self::A4SpareFailsToo,
        Self::A5LatentInRebuild,
        Self::A7LabelsCorrupt,
        Self::A8CrashAndMemberGone,
        Self::A9TrimReuseCrash,
        Self::A10OlderImage,
        Self::H1Kill,
        Self::H2PowerLoss,
        Self::H3ClockJump,
        Self::RingReadFails,
        Self::RingWriteFails,
        Self::RingWriteFailsAndCrash,
        Self::RingFlushFailsOnce,
        Self::RingFlushFailsAlways,
        Self::RingHangs,
        Self::RingSlow,
        Self::RingLostWrites,
        Self::RingRot,
        Self::RingRotInLabel,
        Self::RingVanishes,
        Self::RingCacheLost,
        Self::RingLateWrite,
        Self::RingAllVanish,
        Self::RingOlderImage,
        Self::RingsGoneInCrash,
        Self::RingsTooManyGone,
    ];

    /// What it is.
    pub const fn plan(self) -> Plan {
        match self {
            Self::D1ReadFails => plan("D1 a read fails", 1),
            Self::D1BadSectors => plan("D1 bad sectors", 1),
            Self::D2WriteFails => plan("D2 a write fails", 1),
            Self::D2WriteFailsAndCrash => plan("D2 a write fails, crash", 1).crashing(),
            Self::D3FlushFailsOnce => plan("D3 a flush fails once", 1),
            Self::D3FlushFailsAlways => plan("D3 flushes fail", 1),
            Self::D4Hangs => plan("D4 a disk hangs", 1),
            Self::D4Slow => plan("D4 a disk is slow", 0),
            Self::D5TornWrite => plan("D5 torn writes", 0).crashing(),
            Self::D6LostWrite => plan("D6 lost writes", 1).by_checksums().latent(),
            Self::D6LostMetaWrite => plan("D6 lost label, map or record", 1)
                .by_checksums()
                .latent(),
            Self::D7MisdirectedWrite => plan("D7 misdirected writes", 1).by_checksums().latent(),
            Self::D7MisdirectedPage => plan("D7 misdirected pages", 1).by_checksums().latent(),
            Self::D8RotInData => plan("D8 rot in data, P, Q", 1).by_checksums().latent(),
            Self::D8RotInLabel => plan("D8 rot in a label", 0).latent(),
            Self::D8RotInZones => plan("D8 rot in journal, maps, sums", 1)
                .by_checksums()
                .latent(),
            Self::D9VanishesAndReturns => plan("D9 vanishes and returns", 1),
            Self::D9CaughtUp => plan("D9 returns and is caught up", 1).apart(),
            Self::D10OrderAndClone => plan("D10 other order, a clone", 0).apart(),
            Self::D11Full => plan("D11 full, and a disk fails", 1).apart(),
            Self::D12CacheLost => plan("D12 vanishes without its cache", 1),
            Self::D13LateWrite => plan("D13 a write lands late", 1),
            Self::A1CrashMidStripe => plan("A1 crash at an I/O", 0).crashing(),
            Self::A2TwoAtOnce => plan("A2 two disks at once", 2),
            Self::A2ThreeAtOnce => plan("A2 three disks at once", 3).apart(),
            Self::A3CrashInRebuild => plan("A3 crash in a rebuild", 1).crashing(),
            Self::A4SpareFailsToo => plan("A4 the spare fails, too", 1),
            Self::A5LatentInRebuild => plan("A5 bad sectors in a rebuild", 2).latent(),
            Self::A7LabelsCorrupt => plan("A7 two of three labels", 0).apart(),
            Self::A8CrashAndMemberGone => plan("A8 crash and a member gone", 1).crashing(),
            Self::A9TrimReuseCrash => plan("A9 trim, reuse, crash", 0).crashing(),
            Self::A10OlderImage => plan("A10 older image of a disk", 1)
                .by_checksums()
                .apart()
                .latent(),
            Self::H1Kill => plan("H1 kill -9", 0).crashing(),
            Self::H2PowerLoss => plan("H2 power loss", 0).crashing(),
            Self::H3ClockJump => plan("H3 the clock jumps", 0),
            Self::RingReadFails => on_ring("ring: D1 reads fail"),
            Self::RingWriteFails => on_ring("ring: D2 a write fails"),
            Self::RingWriteFailsAndCrash => on_ring("ring: D2 a write fails, crash"),
            Self::RingFlushFailsOnce => on_ring("ring: D3 a flush fails once"),
            Self::RingFlushFailsAlways => on_ring("ring: D3 flushes fail"),
            Self::RingHangs => on_ring("ring: D4 it hangs"),
            Self::RingSlow => on_ring("ring: D4 it is slow"),
            Self::RingLostWrites => on_ring("ring: D6 lost writes, crash"),
            Self::RingRot => on_ring("ring: D8 rot in records, crash"),
            Self::RingRotInLabel => on_ring("ring: D8 rot in a label"),
            Self::RingVanishes => on_ring("ring: D9 vanishes and returns"),
            Self::RingCacheLost => on_ring("ring: D12 goes without its cache"),
            Self::RingLateWrite => on_ring("ring: D13 a write lands late"),
            Self::RingAllVanish => on_ring("ring: A2 all at once").apart(),
            Self::RingOlderImage => on_ring("ring: A10 older image"),
            Self::RingsGoneInCrash => on_ring("ring: A8 crash and R gone").apart(),
            Self::RingsTooManyGone => on_ring("ring: A8 crash and R+1 gone").apart(),
        }
    }
}
