//! `cairn disk locate` on disks that have no light: loops, which blink by being read.

use std::time::Duration;

use cairn_hwtests::disks;
use cairn_hwtests::host::Host;
use cairn_hwtests::scratch::Scratch;

/// Requests for reads that a loop has completed, as Linux counts them.
fn reads(device: &str) -> u64 {
    let name = device.strip_prefix("/dev/").unwrap();
    let counts = std::fs::read_to_string(format!("/sys/block/{name}/stat")).unwrap();
    counts.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn o1_a_disk_without_a_light_blinks_by_being_read_and_is_left_alone_between() {
    let scratch = Scratch::new();
    let ram = scratch.ram("ram", 256);
    let loops = disks::loops(&ram, "d", 2, 64, 512);
    let paths = disks::devices(&loops);
    let host = Host::start(&scratch);
    let before = (reads(&paths[0]), reads(&paths[1]));
    let line = ["-o", "json", "disk", "locate", &paths[0], "--for", "20s"];
    let mut command = host.command(&line);
    command.stdout(std::process::Stdio::piped());
    let mut blinking = command.spawn().unwrap();
    // Both it and its rests are seen, however slow the machine: some looks find more reads, some find none.
    let (mut at, mut busy, mut still) = (before.0, 0, 0);
    for _ in 0..1000 {
        std::thread::sleep(Duration::from_millis(20));
        let now = reads(&paths[0]);
        if now > at {
            busy += 1;
        } else if busy > 0 {
            still += 1;
        }
        at = now;
        if busy > 5 && still > 5 {
            break;
        }
    }
    assert!(
        busy > 5 && still > 5,
        "{busy} looks with reads, {still} without"
    );
    assert!(blinking.try_wait().unwrap().is_none(), "it goes on");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(blinking.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let ended = blinking.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(0), "Ctrl-C is its usual end");
    let told = String::from_utf8(ended.stdout).unwrap();
    assert!(told.contains("\"by\": \"activity\""), "{told}");
    assert_eq!(reads(&paths[1]), before.1, "no other disk is touched");
}

#[test]
fn o1_what_has_no_tray_or_is_gone_or_has_no_light_to_switch_off_is_refused() {
    let scratch = Scratch::new();
    let ram = scratch.ram("ram", 128);
    let loops = disks::loops(&ram, "d", 1, 64, 512);
    let paths = disks::devices(&loops);
    let host = Host::start(&scratch);
    let file = disks::texts(&[disks::file(scratch.path(), "f", 1)]).remove(0);
    host.refuses(&["disk", "locate", &file], 3, &[&file, "findmnt"]);
    let gone = scratch.text("gone");
    host.refuses(&["disk", "locate", &gone], 1, &[&gone, "stays dark"]);
    let off = ["disk", "locate", &paths[0], "--off"];
    host.refuses(&off, 1, &[&paths[0], "no light"]);
    // Over when the time is.
    host.ok(&["disk", "locate", &paths[0], "--for", "100ms"])
        .says(&["activity"]);
}
