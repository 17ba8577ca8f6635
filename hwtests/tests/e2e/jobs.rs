//! Whole jobs: the demo as a newcomer runs it, and the unit as systemd reads it.

use std::path::Path;

use cairn_hwtests::program::{self, run};
use cairn_hwtests::scratch::Scratch;

/// `systemd-analyze security` in tenths: the unit's exposure may not be more.
const EXPOSURE_MAX_TENTHS: u32 = 27;

#[test]
fn the_demo_does_the_main_job_and_leaves_nothing_behind() {
    let scratch = Scratch::new();
    let dir = scratch.dir("demo");
    let shown = dir.to_string_lossy();
    let line = ["demo", "--dir", &shown, "--size", "64MiB", "--seed", "7"];
    let demo = program::finish(program::command(program::binary("cairn"), &line)).ok();
    demo.says(&[
        "Seed 7",
        "verified against the model",
        "Nothing is left behind",
    ]);
    let left: Vec<_> = std::fs::read_dir(&dir).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn the_demo_needs_no_root() {
    program::need_root();
    let scratch = Scratch::new();
    let dir = scratch.dir("demo");
    // Where anybody may read: the build's directory may lie in root's home.
    let bin = scratch.dir("bin");
    for name in ["cairn", "cairnd"] {
        std::fs::copy(program::binary(name), bin.join(name)).unwrap();
    }
    run("chown", &["nobody", &dir.to_string_lossy()]).ok();
    let cairn = bin.join("cairn").to_string_lossy().into_owned();
    let line = [
        "-u",
        "nobody",
        "--",
        &cairn,
        "demo",
        "--size",
        "64MiB",
        "--dir",
        &dir.to_string_lossy(),
    ];
    run("runuser", &line)
        .ok()
        .says(&["verified against the model"]);
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind_either() {
    let scratch = Scratch::new();
    let dir = scratch.dir("demo");
    let shown = dir.to_string_lossy();
    let mut command = program::command(program::binary("cairn"), &["demo", "--dir", &shown]);
    command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let child = program::start(command);
    cairn_hwtests::wait::until("the demo's directory", || {
        let made = std::fs::read_dir(&dir).unwrap().flatten().next();
        let made = made.is_some_and(|entry| {
            entry.path().join("d9").exists() || entry.path().join("disks/d9").exists()
        });
        made.then_some(())
            .ok_or_else(|| format!("{:?}", std::fs::read_dir(&dir).unwrap().collect::<Vec<_>>()))
    });
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let ended = program::finished("cairn demo, interrupted", child);
    assert_ne!(ended.code, Some(0), "{ended}");
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0, "{ended}");
}

/// A root in which the package would be installed.
fn staged(scratch: &Scratch) -> String {
    let root = scratch.dir("root");
    let packaging = program::tree().join("daemon/packaging");
    for dir in [
        "usr/bin",
        "usr/lib/systemd/system",
        "etc/cairn",
        "bin",
        "etc/systemd/system",
    ] {
        std::fs::create_dir_all(root.join(dir)).unwrap();
    }
    let copy = |from: &Path, to: &str| {
        std::fs::copy(from, root.join(to)).unwrap();
    };
    copy(&program::binary("cairnd"), "usr/bin/cairnd");
    copy(
        &packaging.join("cairnd.service"),
        "usr/lib/systemd/system/cairnd.service",
    );
    copy(&packaging.join("cairnd.toml"), "etc/cairn/cairnd.toml");
    // What ExecReload runs, and the units that ours names.
    copy(Path::new("/bin/kill"), "bin/kill");
    let units = Path::new("/usr/lib/systemd/system");
    let units = if units.is_dir() {
        units
    } else {
        Path::new("/lib/systemd/system")
    };
    for entry in std::fs::read_dir(units).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        let plain = std::fs::metadata(entry.path()).is_ok_and(|metadata| metadata.is_file());
        let of_the_system = [".target", ".slice", ".mount"]
            .iter()
            .any(|end| name.ends_with(end));
        let named = ["systemd-udev-settle.service", "modprobe@.service"];
        if plain && (of_the_system || named.contains(&name.as_str())) {
            copy(&entry.path(), &format!("usr/lib/systemd/system/{name}"));
        }
    }
    root.to_string_lossy().into_owned()
}

#[test]
fn the_unit_verifies_in_a_staged_root() {
    let scratch = Scratch::new();
    verify(&staged(&scratch));
}

#[test]
fn the_unit_verifies_with_what_block_devices_want() {
    let scratch = Scratch::new();
    let root = staged(&scratch);
    let dir = Path::new(&root).join("etc/systemd/system/cairnd.service.d");
    std::fs::create_dir_all(&dir).unwrap();
    for kind in ["ublk.conf", "kernel-nbd.conf"] {
        let drop_in = program::tree().join(format!("daemon/packaging/cairnd-{kind}"));
        std::fs::copy(drop_in, dir.join(kind)).unwrap();
    }
    // What the drivers' units run.
    std::fs::create_dir_all(Path::new(&root).join("sbin")).unwrap();
    std::fs::copy("/bin/true", Path::new(&root).join("sbin/modprobe")).unwrap();
    verify(&root);
}

/// Nothing is said about the unit in this root.
fn verify(root: &str) {
    let root = format!("--root={root}");
    let verified = run(
        "systemd-analyze",
        &["verify", &root, "--man=no", "cairnd.service"],
    )
    .ok();
    let about_ours: Vec<&str> = verified
        .stderr
        .lines()
        .chain(verified.stdout.lines())
        .filter(|line| line.contains("cairnd"))
        .collect();
    assert!(about_ours.is_empty(), "{about_ours:#?}");
}

#[test]
fn the_unit_exposes_no_more_than_it_has_to() {
    let scratch = Scratch::new();
    let root = format!("--root={}", staged(&scratch));
    let threshold = format!("--threshold={EXPOSURE_MAX_TENTHS}");
    let judged = run(
        "systemd-analyze",
        &[
            "security",
            "--offline=true",
            "--no-pager",
            &threshold,
            &root,
            "cairnd.service",
        ],
    );
    let overall = judged
        .stdout
        .lines()
        .find(|line| line.contains("Overall exposure"));
    println!("{}", overall.unwrap_or_default());
    assert!(overall.is_some(), "{judged}");
    judged.ok();
}

#[test]
fn the_packaged_configuration_is_valid() {
    let file = program::tree().join("daemon/packaging/cairnd.toml");
    let line = [Path::new("--check-config"), Path::new("--config"), &file];
    program::finish(program::command(program::binary("cairnd"), &line)).ok();
}
