//! Disks that an array must not take: in use, mounted, somebody else's, twice the same, too small.

use std::io::Read;
use std::path::Path;

use cairn_hwtests::disks::{self, Loop};
use cairn_hwtests::host::Host;
use cairn_hwtests::program::run;
use cairn_hwtests::scratch::Scratch;

use crate::world::{DISK_MIB, World, create_line};

/// mkfs.xfs wants 300 MiB at least.
const FOREIGN_MIB: u64 = 512;

/// A daemon and three blank disks.
fn blank() -> (Scratch, Host, Vec<String>) {
    let scratch = Scratch::new();
    let paths = disks::texts(&disks::files(scratch.path(), "d", 3, DISK_MIB));
    let host = Host::start(&scratch);
    (scratch, host, paths)
}

/// The first megabytes, where every signature but the oldest of md lies.
fn head(path: &str) -> Vec<u8> {
    let mut head = Vec::new();
    let disk = std::fs::File::open(path).unwrap();
    disk.take(8 << 20).read_to_end(&mut head).unwrap();
    head
}

#[test]
fn o2_the_same_disk_twice_is_refused_by_whatever_path() {
    let (scratch, host, paths) = blank();
    let twice = [paths[0].clone(), paths[1].clone(), paths[0].clone()];
    host.refuses(
        &create_line("pool", "raid5", &twice, &[]),
        1,
        &[&paths[0], "twice"],
    );
    let (link, hard) = (scratch.text("link"), scratch.text("hard"));
    std::os::unix::fs::symlink(&paths[0], &link).unwrap();
    std::fs::hard_link(&paths[0], &hard).unwrap();
    for other in [&link, &hard] {
        let line = [paths[0].clone(), paths[1].clone(), other.clone()];
        host.refuses(
            &create_line("pool", "raid5", &line, &[]),
            1,
            &[&paths[0], other, "same disk"],
        );
    }
    let spare = create_line("pool", "raid5", &paths, &["--spares", &link]);
    host.refuses(&spare, 1, &["same disk", &link]);
    host.create("pool", "raid5", &paths, &[]);
}

#[test]
fn o2_two_loops_over_one_file_are_one_disk() {
    let (scratch, host, paths) = blank();
    let ram = scratch.ram("ram", 2 * DISK_MIB);
    let image = disks::file(&ram, "image", DISK_MIB);
    let loops = [Loop::attach(&image, 512), Loop::attach(&image, 512)];
    let [a, b] = [loops[0].device().to_owned(), loops[1].device().to_owned()];
    let line = [a.clone(), paths[0].clone(), b.clone()];
    host.refuses(
        &create_line("pool", "raid5", &line, &[]),
        1,
        &[&a, &b, "same disk"],
    );
    let image = image.to_string_lossy().into_owned();
    let line = [a.clone(), paths[0].clone(), image.clone()];
    host.refuses(
        &create_line("pool", "raid5", &line, &[]),
        1,
        &[&a, &image, "same disk"],
    );
}

#[test]
fn a_disk_of_another_array_is_refused_running_or_not() {
    let mut world = World::new("raid5", 3, 1, "64MiB");
    let host = &world.host;
    let more = disks::texts(&disks::files(world.scratch.path(), "m", 2, DISK_MIB));
    for taken in [&world.disks[1], &world.spares[0]] {
        let line = [more[0].clone(), more[1].clone(), taken.clone()];
        host.refuses(
            &create_line("new", "raid5", &line, &[]),
            1,
            &[taken, "pool"],
        );
        let wipe = create_line("new", "raid5", &line, &["--wipe", taken]);
        host.refuses(&wipe, 1, &[taken, "pool"]);
        host.refuses(&["disk", "wipe", taken, "--yes"], 1, &[taken, "pool"]);
    }
    host.refuses(
        &["array", "spare", "add", "pool", &world.disks[0]],
        1,
        &[&world.disks[0], "pool"],
    );
    host.ok(&["array", "stop", "pool", "--yes"]);
    let line = [more[0].clone(), more[1].clone(), world.disks[1].clone()];
    host.refuses(
        &create_line("new", "raid5", &line, &[]),
        1,
        &[&world.disks[1], "pool", "--wipe"],
    );
    world.host.ok(&["array", "assemble", "pool"]);
    // Another daemon doesn't get them either.
    let other = Host::start_with(&world.scratch, "other", "");
    let line = [more[0].clone(), more[1].clone(), world.disks[1].clone()];
    other.refuses(
        &create_line("new", "raid5", &line, &["--wipe", &world.disks[1]]),
        1,
        &[&world.disks[1]],
    );
    world.host.down();
    let scan = [
        "array",
        "assemble",
        "pool",
        "--scan",
        &world.disks[0],
        &world.disks[1],
        &world.disks[2],
    ];
    // An array of another host is started here only by request.
    other.ok(&scan);
    assert_eq!(other.array("pool").redundancy_left, 1);
}

#[test]
fn o3_a_foreign_signature_is_refused_by_name_and_goes_only_with_wipe() {
    let (scratch, host, paths) = blank();
    let ram = scratch.ram("ram", 4 * DISK_MIB);
    let image = disks::file(&ram, "foreign", FOREIGN_MIB);
    let device = Loop::attach(&image, 512);
    let foreign = device.device().to_owned();
    // Each written by its own tool.
    let makers: [(&str, &[&str], &str); 9] = [
        ("mkfs.ext4", &["-q", "-F"], "ext4"),
        ("mkfs.xfs", &["-q", "-f"], "xfs"),
        ("mkfs.btrfs", &["-q", "-f"], "btrfs"),
        ("mkswap", &["-q", "-f"], "swap"),
        (
            "parted",
            &[
                "-s", "DEVICE", "mklabel", "gpt", "mkpart", "a", "1MiB", "9MiB",
            ],
            "GPT",
        ),
        (
            "parted",
            &[
                "-s", "DEVICE", "mklabel", "msdos", "mkpart", "primary", "1MiB", "9MiB",
            ],
            "partition",
        ),
        (
            "pvcreate",
            &["-q", "-y", "-ff", "--devices", "DEVICE"],
            "LVM",
        ),
        ("md 1.2", &[], "md"),
        ("md 0.90", &[], "md"),
    ];
    for (tool, arguments, name) in makers {
        run("wipefs", &["-q", "--all", "--force", &foreign]).ok();
        if let Some(version) = tool.strip_prefix("md ") {
            md_superblock(&foreign, version);
        } else {
            let mut line: Vec<&str> = arguments
                .iter()
                .map(|word| {
                    if *word == "DEVICE" {
                        foreign.as_str()
                    } else {
                        word
                    }
                })
                .collect();
            if tool != "parted" {
                line.push(&foreign);
            }
            run(tool, &line).ok();
        }
        let before = head(&foreign);
        let line = [paths[0].clone(), paths[1].clone(), foreign.clone()];
        let refused = host
            .cairn(&create_line("pool", "raid5", &line, &[]))
            .exited(1);
        let words = refused.stderr.to_lowercase();
        assert!(words.contains(&name.to_lowercase()), "{tool}: {refused}");
        refused.says(&[&foreign, &format!("--wipe {foreign}")]);
        let shown = host.ok(&["disk", "show", &foreign]);
        let words = shown.stdout.to_lowercase();
        assert!(words.contains(&name.to_lowercase()), "{tool}: {shown}");
        assert!(
            head(&foreign) == before,
            "{tool}: a refused disk was written to"
        );
        host.ok(&create_line("pool", "raid5", &line, &["--wipe", &foreign]));
        let left = run("wipefs", &["--noheadings", &foreign]);
        assert!(left.stdout.trim().is_empty(), "{tool}: {left}");
        host.ok(&["array", "destroy", "pool", "--yes"]);
    }
}

/// A superblock of Linux's md as its documentation draws it; mdadm can make one only with the
/// kernel's help, but judges this one.
fn md_superblock(device: &str, version: &str) {
    use std::os::unix::fs::FileExt;
    const MAGIC: [u8; 4] = 0xa92b_4efc_u32.to_le_bytes();
    let file = std::fs::File::options().write(true).open(device).unwrap();
    let mut block = [0; 4096];
    block[..4].copy_from_slice(&MAGIC);
    if version == "1.2" {
        let mut set = |at: usize, value: &[u8]| block[at..at + value.len()].copy_from_slice(value);
        let sectors = (FOREIGN_MIB << 20) / 512;
        set(4, &1u32.to_le_bytes());
        set(16, &[0x5a; 16]);
        set(32, b"host:0");
        set(72, &1u32.to_le_bytes());
        set(80, &(sectors - 2048).to_le_bytes());
        set(92, &2u32.to_le_bytes());
        set(128, &2048u64.to_le_bytes());
        set(136, &(sectors - 2048).to_le_bytes());
        set(144, &8u64.to_le_bytes());
        set(220, &4u32.to_le_bytes());
        set(258, &1u16.to_le_bytes());
        let mut sum: u64 = 0;
        for word in block[..256 + 2 * 4].chunks(4) {
            sum += u64::from(u32::from_le_bytes(word.try_into().unwrap()));
        }
        let folded = (sum & 0xffff_ffff) + (sum >> 32);
        block[216..220]
            .copy_from_slice(&u32::try_from(folded & 0xffff_ffff).unwrap().to_le_bytes());
        file.write_all_at(&block, 4096).unwrap();
    } else {
        block[4..8].copy_from_slice(&0u32.to_le_bytes());
        block[8..12].copy_from_slice(&90u32.to_le_bytes());
        let at = ((FOREIGN_MIB << 20) & !0xffff) - 0x1_0000;
        file.write_all_at(&block, at).unwrap();
    }
    file.sync_all().unwrap();
}

#[test]
fn o3_remains_of_signatures_with_a_signature_of_several_kinds_all_go() {
    let (scratch, host, paths) = blank();
    let ram = scratch.ram("ram", 2 * DISK_MIB);
    let image = disks::file(&ram, "foreign", DISK_MIB);
    let device = Loop::attach(&image, 4096);
    let foreign = device.device().to_owned();
    run("mkfs.ext4", &["-q", "-F", &foreign]).ok();
    run("parted", &["-s", &foreign, "mklabel", "gpt"]).ok();
    let wiped = host.ok(&["disk", "wipe", &foreign, "--yes"]);
    let left = run("wipefs", &["--noheadings", &foreign]);
    assert!(left.stdout.trim().is_empty(), "{wiped} left {left}");
    let line = [paths[0].clone(), paths[1].clone(), foreign];
    host.create("pool", "raid5", &line, &[]);
}

#[test]
fn a_mounted_disk_is_refused_even_with_wipe_and_its_files_stay() {
    let (scratch, host, paths) = blank();
    let ram = scratch.ram("ram", 2 * DISK_MIB);
    let image = disks::file(&ram, "mounted", DISK_MIB);
    let device = Loop::attach(&image, 512);
    let mounted = device.device().to_owned();
    run("mkfs.ext4", &["-q", "-F", &mounted]).ok();
    let mount = scratch.dir("mnt");
    run("mount", &[mounted.as_str(), &mount.to_string_lossy()]).ok();
    std::fs::write(mount.join("file"), "mine").unwrap();
    let line = [paths[0].clone(), paths[1].clone(), mounted.clone()];
    for further in [&[][..], &["--wipe", &mounted]] {
        let refused = host
            .cairn(&create_line("pool", "raid5", &line, further))
            .exited(1);
        refused.says(&[&mounted, "mounted at", "free it first"]);
    }
    host.refuses(
        &["disk", "wipe", &mounted, "--yes"],
        1,
        &[&mounted, "mounted"],
    );
    assert_eq!(std::fs::read_to_string(mount.join("file")).unwrap(), "mine");
    run("umount", &[mount]).ok();
    run("e2fsck", &["-fn", &mounted]).ok();
}

#[test]
fn disks_of_unequal_size_make_an_array_of_the_smallest_and_that_is_said() {
    let (scratch, host, mut paths) = blank();
    let large = disks::file(scratch.path(), "large", DISK_MIB * 2);
    paths[1] = large.to_string_lossy().into_owned();
    let made = host.ok(&create_line("pool", "raid5", &paths, &[]));
    assert!(
        made.stderr.contains("unequal") && made.stderr.contains(&paths[0]),
        "{made}"
    );
    let small = disks::texts(&disks::files(scratch.path(), "e", 3, DISK_MIB));
    host.ok(&create_line("other", "raid5", &small, &[]));
    assert_eq!(
        host.array("pool").size_bytes,
        host.array("other").size_bytes
    );
    let tiny = disks::texts(&[disks::file(scratch.path(), "tiny", 64)]);
    host.refuses(
        &["array", "spare", "add", "pool", &tiny[0]],
        1,
        &[&tiny[0], "bytes"],
    );
}

#[test]
fn a_disk_that_cannot_be_one_is_refused_by_name() {
    let (scratch, host, paths) = blank();
    let tiny = disks::texts(&[disks::file(scratch.path(), "tiny", 8)])[0].clone();
    let dir = scratch.dir("dir").to_string_lossy().into_owned();
    let missing = scratch.text("missing");
    let refuses = |path: &str, words: &[&str]| {
        let line = [paths[0].clone(), paths[1].clone(), path.to_owned()];
        let refused = host
            .cairn(&create_line("pool", "raid5", &line, &[]))
            .exited(1);
        refused.says(&[path]).says(words);
    };
    refuses(&tiny, &["too small"]);
    refuses(&dir, &[]);
    refuses(&missing, &[]);
    refuses("/dev/null", &[]);
    assert!(!Path::new(&missing).exists());
    host.create("pool", "raid5", &paths, &[]);
}

#[test]
fn wipe_names_only_disks_of_the_array() {
    let (scratch, host, paths) = blank();
    let stray = scratch.text("stray");
    std::fs::write(&stray, "mine").unwrap();
    let line = create_line("pool", "raid5", &paths, &["--wipe", &stray]);
    host.refuses(&line, 3, &[&stray, "--wipe"]);
    assert_eq!(std::fs::read_to_string(&stray).unwrap(), "mine");
}
