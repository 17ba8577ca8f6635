//! Disks that give errors for a while and stay where they are.

use cairn_api::{Array, ArrayState, EventPage, Member, MemberState};
use cairn_hwtests::acked::Ledger;
use cairn_hwtests::disks::{self, Loop};
use cairn_hwtests::fault::{Failing, Pullable};
use cairn_hwtests::host::Host;
use cairn_hwtests::scratch::Scratch;

use crate::world::{DISK_MIB, io};

/// RAID 5 of four, the last of which can be made to fail, and a volume.
struct Setting {
    host: Host,
    uri: String,
    failing: Pullable,
    _loops: Vec<Loop>,
    scratch: Scratch,
}

impl Setting {
    fn new() -> Self {
        let scratch = Scratch::new();
        let ram = scratch.ram("ram", 8 * DISK_MIB);
        let loops = disks::loops(&ram, "d", 3, DISK_MIB, 512);
        let failing = Pullable::make(&scratch, &ram, "p", DISK_MIB, 512);
        let mut members = disks::devices(&loops);
        members.push(failing.device().to_owned());
        let host = Host::start(&scratch);
        host.create("pool", "raid5", &members, &[]);
        let uri = host.volume("pg", "pool", "128MiB", &scratch.text("pg.sock"));
        Self {
            host,
            uri,
            failing,
            _loops: loops,
            scratch,
        }
    }

    fn member<'a>(&self, array: &'a Array) -> &'a Member {
        let mut members = array.members.iter();
        let ours = members.find(|member| member.path == self.failing.device());
        ours.expect("the member is listed")
    }

    fn events(&self, kind: &str) -> usize {
        let page: EventPage = self.host.json(&["events", "-n", "1000"]);
        let of_kind = page.events.iter().filter(|event| event.kind == kind);
        of_kind.count()
    }
}

#[test]
fn d1_reads_that_fail_for_a_while_are_counted_and_repaired_and_too_many_cost_the_member() {
    let mut setting = Setting::new();
    io(&setting.uri, &["write -P 0x4d 1M 17M"]);
    // Nothing is left in memory that could answer.
    setting.host.down();
    setting.host.up();
    setting.failing.fail(Failing::Reads);
    // A block of each data chunk of two rows: it holds one of them at least.
    for chunk in 0..6 {
        let block = format!("read -P 0x4d {} 4k", (1 << 20) + (chunk << 16));
        io(&setting.uri, &[&block]);
    }
    let array = setting.host.array("pool");
    let member = setting.member(&array);
    assert!(member.errors.read > 0, "{array:#?}");
    assert_eq!(member.state, MemberState::InSync, "{array:#?}");
    assert_eq!(array.state, ArrayState::Clean);
    assert!(setting.events("Repaired") > 0);

    io(&setting.uri, &["read -P 0x4d 1M 17M"]);
    let array = setting.host.wait_array("pool", "a member less", |array| {
        array.state == ArrayState::Degraded
    });
    assert_ne!(setting.member(&array).state, MemberState::InSync);
    assert_eq!(setting.events("Fail"), 1);

    setting.failing.heal(Failing::Reads);
    let device = setting.failing.device().to_owned();
    setting.host.ok(&["array", "spare", "add", "pool", &device]);
    setting.host.wait_clean("pool");
    io(&setting.uri, &["read -P 0x4d 1M 17M"]);
}

#[test]
fn d2_a_disk_whose_writes_fail_is_out_before_they_are_acknowledged_and_caught_up_when_it_is_well() {
    let mut setting = Setting::new();
    let socket = setting.scratch.join("pg.sock");
    let writers = Ledger::new(61, 64 << 20).write(&socket, "pg");
    writers.progress(200);
    setting.failing.fail(Failing::Writes);
    writers.progress(400);
    let array = setting.host.array("pool");
    assert_eq!(array.state, ArrayState::Degraded, "{array:#?}");
    assert_ne!(setting.member(&array).state, MemberState::InSync);
    setting.failing.heal(Failing::Writes);
    let device = setting.failing.device().to_owned();
    setting.host.ok(&["array", "spare", "add", "pool", &device]);
    writers.progress(200);
    setting.host.wait_clean("pool");
    setting.host.kill();
    let mut ledger = writers.finish();
    setting.host.up();
    ledger.verify(&socket, "pg");
    assert_eq!(setting.host.array("pool").state, ArrayState::Clean);
}
