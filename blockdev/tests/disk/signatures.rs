//! Signatures read from and wiped off a real disk file.

use std::os::unix::fs::FileExt;

use cairn_blockdev::disk::{Disk, OpenMode, Reactor, ReactorConfig};
use cairn_blockdev::signature::{Kind, probe, wipe};
use cairn_blockdev::units::{MIB, usize_of};

const SIZE: u64 = 70 * MIB;

#[test]
fn a_wipe_zeroes_the_magic_numbers_and_nothing_else() {
    let path = std::env::temp_dir().join(format!("cairn-signatures-{}", std::process::id()));
    let file = std::fs::File::create_new(&path).unwrap();
    file.set_len(SIZE).unwrap();
    // Not zero anywhere near, so that a wipe that goes too far is seen.
    let magics: [(u64, &[u8]); 6] = [
        (512, b"EFI PART"),
        (65536 + 64, b"_BHRfS_M"),
        (2 * MIB, b"CAIRNLBL"),
        (64 * MIB + 64, b"_BHRfS_M"),
        (SIZE - MIB, b"CAIRNLBL"),
        (SIZE - 512, b"EFI PART"),
    ];
    for (offset, _) in magics {
        let start = offset - offset % 4096;
        file.write_all_at(&[0x5A; 4096], start).unwrap();
    }
    for (offset, magic) in magics {
        file.write_all_at(magic, offset).unwrap();
    }
    let mut expected = std::fs::read(&path).unwrap();
    for (offset, magic) in magics {
        expected[usize_of(offset)..usize_of(offset) + magic.len()].fill(0);
    }

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let io = Reactor::start(ReactorConfig::default()).unwrap();
        let disk = Disk::open(&io, &path, OpenMode::Exclusive).unwrap();
        let found = probe(&disk).await.unwrap();
        let kinds: Vec<_> = found.iter().map(|s| (s.kind, s.places.len())).collect();
        assert_eq!(
            kinds,
            [
                (Kind::PartitionTable, 1),
                (Kind::FileSystem, 2),
                (Kind::Cairn, 2),
                (Kind::PartitionTable, 1)
            ]
        );
        wipe(&disk, &found).await.unwrap();
        assert_eq!(probe(&disk).await.unwrap(), []);
    });
    let after = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(after == expected);
}
