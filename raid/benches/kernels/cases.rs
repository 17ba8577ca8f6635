//! What is computed, by whom, and the targets.
//!
//! GB/s are of what is taken in: data, or what a lost chunk is solved from. An update takes in the new
//! data, and reads the old and both parities beside it.

use std::hint::black_box;

use cairn_blockdev::crc::crc32c;
use cairn_blockdev::units::u64_of;
use cairn_raid::parity::{Kernel, coefficient, inverse, mul};

use crate::contender::{Case, Contender, Side};
use crate::ground::{Ground, Place, Results};
use crate::isal::{Factors, Isal, Way};

/// What checksums are of.
const BLOCK: usize = 4096;
/// The lost chunks, and the changed one.
const LOST: (usize, usize) = (1, 4);
/// From so many sources on an array is a wide one.
const WIDE: usize = 12;
/// What results are before: nothing that a kernel gives.
const UNTOUCHED: u8 = 0xa5;

/// Targets, as ratios to the faster of the peer's ways.
const RECOVERY: f64 = 1.2;
const AVX2: f64 = 0.9;

fn target_pq(ground: &Ground) -> f64 {
    match ground.place {
        Place::Cache => 1.0,
        Place::Ram if ground.data.len() < WIDE => 1.1,
        Place::Ram => 1.4,
    }
}

fn plain() -> &'static Kernel {
    Kernel::available()
        .last()
        .copied()
        .unwrap_or_else(|| Kernel::best())
}

fn avx2() -> Option<&'static Kernel> {
    let mut kernels = Kernel::available().iter();
    kernels.find(|kernel| kernel.name() == "avx2").copied()
}

type Run<'a> = Box<dyn FnMut(&mut Results) + 'a>;

/// What makes a row, before its contenders are known by side.
struct Row<'a> {
    kernel: &'static str,
    bytes: u64,
    target: Option<f64>,
    before: Box<dyn Fn(&mut Results) + 'a>,
    ours: (&'static str, Run<'a>),
    plain: Run<'a>,
    peers: Vec<(&'static str, Run<'a>)>,
    has_limit: bool,
}

impl<'a> Row<'a> {
    fn of(self, ground: &'a Ground) -> Case<'a> {
        let mut contenders = vec![Contender::new(Side::Ours, self.ours.0, self.ours.1)];
        let peers = self.peers.into_iter();
        contenders.extend(peers.map(|(name, run)| Contender::new(Side::Peer, name, run)));
        if self.has_limit {
            contenders.push(Contender::new(Side::Limit, "memcpy", |_: &mut Results| {
                ground.copy();
            }));
        }
        Case {
            kernel: self.kernel,
            bytes: self.bytes,
            target: self.target,
            contenders,
            before: self.before,
            plain: Contender::new(Side::Ours, plain().name(), self.plain),
            results: ground.results(),
        }
    }
}

fn untouched<'a>() -> Box<dyn Fn(&mut Results) + 'a> {
    Box::new(|results| {
        results.a.fill(UNTOUCHED);
        results.b.fill(UNTOUCHED);
        results.word = 0;
    })
}

/// All of a shape; whole chunks on pages are looked at for parity and recovery alone.
pub(crate) fn all<'a>(ground: &'a Ground, isal: Option<&'a Isal>) -> Vec<Case<'a>> {
    let best = Kernel::best();
    let mut rows = vec![
        parity(ground, isal),
        recovery(ground, isal, "recover two", best, true),
    ];
    if !ground.is_on_pages {
        rows.extend([
            xor(ground, isal),
            recovery(ground, isal, "recover one", best, false),
            update(ground, isal),
            verify(ground, isal),
            words(ground),
        ]);
        if let Some(avx2) = avx2() {
            rows.push(parity_avx2(ground, isal, avx2));
            rows.push(recovery(ground, isal, "recover one, AVX2", avx2, false));
            rows.push(recovery(ground, isal, "recover two, AVX2", avx2, true));
        }
        if ground.data.len() < WIDE {
            rows.push(checksum(ground, isal));
        }
    }
    rows.into_iter().map(|row| row.of(ground)).collect()
}

fn data_bytes(ground: &Ground) -> u64 {
    ground.data.iter().map(|strip| u64_of(strip.len())).sum()
}

fn xor<'a>(ground: &'a Ground, isal: Option<&'a Isal>) -> Row<'a> {
    let sources = ground.sources();
    let by = |kernel: &'static Kernel| -> Run<'a> {
        let sources = sources.clone();
        Box::new(move |results| kernel.p(&sources, &mut results.a))
    };
    let peer = isal.map(|isal| -> (&'static str, Run<'a>) {
        let sources = sources.clone();
        (
            "xor_gen",
            Box::new(move |results| isal.xor(&sources, &mut results.a)),
        )
    });
    Row {
        kernel: "P",
        bytes: data_bytes(ground),
        target: None,
        before: untouched(),
        ours: (Kernel::best().name(), by(Kernel::best())),
        plain: by(plain()),
        peers: peer.into_iter().collect(),
        has_limit: true,
    }
}

fn pq_by<'a>(ground: &'a Ground, kernel: &'static Kernel) -> Run<'a> {
    let sources = ground.sources();
    Box::new(move |results| kernel.pq(&sources, &mut results.a, &mut results.b))
}

/// Its two ways to P and Q.
fn pq_peers<'a>(
    ground: &'a Ground,
    isal: &'a Isal,
    way: Way,
    names: [&'static str; 2],
) -> Vec<(&'static str, Run<'a>)> {
    let sources = ground.sources();
    let ones = vec![1; sources.len()];
    let powers: Vec<u8> = (0..sources.len()).map(coefficient).collect();
    let factors = isal.factors(way, &[&ones, &powers]);
    let [generate, encode] = names;
    let again = sources.clone();
    vec![
        (
            generate,
            Box::new(move |results: &mut Results| {
                isal.pq(way, &again, &mut results.a, &mut results.b);
            }),
        ),
        (encode, encode_by(isal, factors, sources)),
    ]
}

fn encode_by<'a>(isal: &'a Isal, factors: Factors, sources: Vec<&'a [u8]>) -> Run<'a> {
    Box::new(move |results| {
        isal.encode(&factors, &sources, &mut [&mut results.a, &mut results.b]);
    })
}

fn parity<'a>(ground: &'a Ground, isal: Option<&'a Isal>) -> Row<'a> {
    let names = ["pq_gen", "ec_encode_data"];
    Row {
        kernel: "P+Q",
        bytes: data_bytes(ground),
        target: Some(target_pq(ground)),
        before: untouched(),
        ours: (Kernel::best().name(), pq_by(ground, Kernel::best())),
        plain: pq_by(ground, plain()),
        peers: isal.map_or_else(Vec::new, |isal| pq_peers(ground, isal, Way::Chosen, names)),
        has_limit: true,
    }
}

fn parity_avx2<'a>(ground: &'a Ground, isal: Option<&'a Isal>, avx2: &'static Kernel) -> Row<'a> {
    let names = ["pq_gen_avx2", "ec_encode_data_avx2"];
    Row {
        kernel: "P+Q, AVX2",
        target: Some(AVX2),
        ours: (avx2.name(), pq_by(ground, avx2)),
        peers: isal.map_or_else(Vec::new, |isal| pq_peers(ground, isal, Way::Avx2, names)),
        has_limit: false,
        ..parity(ground, None)
    }
}

fn words(ground: &Ground) -> Row<'_> {
    Row {
        kernel: "P+Q, words",
        target: None,
        ours: (plain().name(), pq_by(ground, plain())),
        has_limit: false,
        ..parity(ground, None)
    }
}

/// Factors of what is left (data without the lost, then P, then Q) that give the two lost ones.
fn solving_two(count: usize) -> (Vec<u8>, Vec<u8>) {
    let (of_x, of_y) = (coefficient(LOST.0), coefficient(LOST.1));
    let scale = inverse(of_x ^ of_y);
    let left = (0..count).filter(|index| *index != LOST.0 && *index != LOST.1);
    let for_x: Vec<u8> = left
        .map(|index| mul(scale, coefficient(index) ^ of_y))
        .chain([mul(scale, of_y), scale])
        .collect();
    let (q, others) = for_x.split_last().unwrap_or((&0, &[]));
    let for_y = others.iter().map(|factor| factor ^ 1).chain([*q]).collect();
    (for_x, for_y)
}

/// Factors of what is left (data without the lost, then Q) that give the lost one.
fn solving_one(count: usize) -> Vec<u8> {
    let scale = inverse(coefficient(LOST.0));
    let left = (0..count).filter(|index| *index != LOST.0);
    let data = left.map(|index| mul(scale, coefficient(index)));
    data.chain([scale]).collect()
}

/// The lost ones from as many strips as there is data; which strip stands for what doesn't matter.
fn recovery<'a>(
    ground: &'a Ground,
    isal: Option<&'a Isal>,
    name: &'static str,
    kernel: &'static Kernel,
    of_two: bool,
) -> Row<'a> {
    let sources = ground.sources();
    let (f, g) = if of_two {
        solving_two(sources.len())
    } else {
        (solving_one(sources.len()), Vec::new())
    };
    let by = |kernel: &'static Kernel| -> Run<'a> {
        let (sources, f) = (sources.clone(), f.clone());
        Box::new(move |results| {
            if of_two {
                let plain = sources.len() - 1;
                kernel.pair(&sources, &f, plain, &mut results.a, &mut results.b);
            } else {
                kernel.dot(&sources, &f, &mut results.a);
            }
        })
    };
    let is_best = kernel.name() == Kernel::best().name();
    let (way, peer_name) = if is_best {
        (Way::Chosen, "ec_encode_data")
    } else {
        (Way::Avx2, "ec_encode_data_avx2")
    };
    let peer = isal.map(|isal| -> (&'static str, Run<'a>) {
        let sources = sources.clone();
        if of_two {
            let factors = isal.factors(way, &[&f, &g]);
            return (peer_name, encode_by(isal, factors, sources));
        }
        let factors = isal.factors(way, &[&f]);
        (
            peer_name,
            Box::new(move |results| isal.encode(&factors, &sources, &mut [&mut results.a])),
        )
    });
    Row {
        kernel: name,
        bytes: data_bytes(ground),
        target: Some(if is_best { RECOVERY } else { AVX2 }),
        before: untouched(),
        ours: (kernel.name(), by(kernel)),
        plain: by(plain()),
        peers: peer.into_iter().collect(),
        has_limit: false,
    }
}

fn update<'a>(ground: &'a Ground, isal: Option<&'a Isal>) -> Row<'a> {
    let mut sources = ground.sources().into_iter();
    let (old, new) = (
        sources.next().unwrap_or_default(),
        sources.next().unwrap_or_default(),
    );
    let factor = coefficient(LOST.1);
    let by = |kernel: &'static Kernel| -> Run<'a> {
        Box::new(move |results| {
            kernel.update_pq(old, new, factor, &mut results.a, &mut results.b);
        })
    };
    let peer = isal.map(|isal| -> (&'static str, Run<'a>) {
        let factors = isal.factors(Way::Chosen, &[&[1], &[factor]]);
        let mut change = ground.results().a;
        (
            "xor_gen, ec_encode_data_update",
            Box::new(move |results| {
                isal.xor(&[old, new], &mut change);
                isal.add(&factors, &change, &mut [&mut results.a, &mut results.b]);
            }),
        )
    });
    Row {
        kernel: "update of P+Q",
        bytes: u64_of(new.len()),
        target: None,
        before: untouched(),
        ours: (Kernel::best().name(), by(Kernel::best())),
        plain: by(plain()),
        peers: peer.into_iter().collect(),
        has_limit: false,
    }
}

fn verify<'a>(ground: &'a Ground, isal: Option<&'a Isal>) -> Row<'a> {
    let sources = ground.sources();
    let by = |kernel: &'static Kernel| -> Run<'a> {
        let sources = sources.clone();
        Box::new(move |results| {
            let is_right = kernel.is_pq(&sources, &results.a, &results.b);
            results.word = u64::from(is_right);
        })
    };
    let mut peers: Vec<(&'static str, Run<'a>)> = Vec::new();
    if let Some(isal) = isal {
        let checked = sources.clone();
        peers.push((
            "pq_check",
            Box::new(move |results| {
                let is_right = isal.is_pq(&checked, &mut results.a, &mut results.b);
                results.word = u64::from(is_right);
            }),
        ));
        let generated = sources.clone();
        let mut scratch = ground.results();
        peers.push((
            "pq_gen, compared",
            Box::new(move |results| {
                isal.pq(Way::Chosen, &generated, &mut scratch.a, &mut scratch.b);
                let is_right = scratch.a[..] == results.a[..] && scratch.b[..] == results.b[..];
                results.word = u64::from(is_right);
            }),
        ));
    }
    let stored = sources.clone();
    Row {
        kernel: "verify P+Q",
        bytes: data_bytes(ground),
        target: None,
        before: Box::new(move |results| {
            Kernel::best().pq(&stored, &mut results.a, &mut results.b);
            results.word = 0;
        }),
        ours: (Kernel::best().name(), by(Kernel::best())),
        plain: by(plain()),
        peers,
        has_limit: false,
    }
}

fn checksum<'a>(ground: &'a Ground, isal: Option<&'a Isal>) -> Row<'a> {
    let sum = |of: fn(&[u8]) -> u32| -> Run<'a> {
        let sources = ground.sources();
        Box::new(move |results| {
            let blocks = sources.iter().flat_map(|source| source.chunks(BLOCK));
            results.word = blocks.fold(0, |all, block| all ^ u64::from(of(black_box(block))));
        })
    };
    let mut peers = vec![("crc32c crate", sum(crc32c::crc32c))];
    if let Some(isal) = isal {
        let sources = ground.sources();
        peers.push((
            "crc32_iscsi",
            Box::new(move |results: &mut Results| {
                let blocks = sources.iter().flat_map(|source| source.chunks(BLOCK));
                results.word = blocks.fold(0, |all, block| {
                    all ^ u64::from(isal.crc32c(black_box(block)))
                });
            }),
        ));
    }
    Row {
        kernel: "CRC-32C of 4 KiB",
        bytes: data_bytes(ground),
        target: None,
        before: untouched(),
        ours: (cairn_blockdev::crc::kernel(), sum(crc32c)),
        plain: sum(crc32c::crc32c),
        peers,
        has_limit: false,
    }
}
