//! The journal on disks of its own: made, failed under load, killed, replaced, and asked about.

use cairn_api::{Array, ArrayState, DiskList, EventPage, HealthCode, MemberState};
use cairn_hwtests::acked::Ledger;
use cairn_hwtests::disks;
use cairn_hwtests::fault::Pullable;
use cairn_hwtests::host::Host;
use cairn_hwtests::scratch::Scratch;

use crate::world::{DISK_MIB, create_line};

const LOADED_BYTES: u64 = 96 << 20;
const RING_MIB: u64 = 64;

fn state_of(array: &Array, path: &str) -> Option<MemberState> {
    let rings = array.spares.iter().filter(|disk| disk.journal);
    let mut named = rings.filter(|disk| disk.path == path);
    named.next().map(|disk| disk.state)
}

fn has_health(host: &Host, code: HealthCode) -> bool {
    host.health().checks.iter().any(|check| check.code == code)
}

fn drained(array: &Array) -> bool {
    array.journal.is_some_and(|journal| !journal.draining)
}

#[test]
fn journal_disks_fail_are_missed_and_are_replaced_while_nothing_acked_is_lost() {
    let scratch = Scratch::new();
    let ram = scratch.ram("ram", 8 * DISK_MIB);
    let members = disks::loops(&ram, "d", 4, DISK_MIB, 512);
    let rings = disks::loops(&ram, "j", 2, RING_MIB, 512);
    let mut pulled = Pullable::make(&scratch, &ram, "p", RING_MIB, 512);
    let paths = disks::devices(&members);
    let (first, new) = (rings[0].device().to_owned(), rings[1].device().to_owned());
    let second = pulled.device().to_owned();
    let mut host = Host::start(&scratch);
    let create = |further: &[&str]| {
        let mut line: Vec<String> = create_line("pool", "raid5", &paths, &[])
            .into_iter()
            .map(str::to_owned)
            .collect();
        line.extend(further.iter().map(|word| (*word).to_owned()));
        line
    };
    let run = |host: &Host, line: Vec<String>| {
        let words: Vec<&str> = line.iter().map(String::as_str).collect();
        host.cairn(&words)
    };
    // One is too few, and the number is named; a dry run makes nothing.
    let refused = run(&host, create(&["--journal-disks", &first]));
    assert!(
        refused.code != Some(0) && refused.stderr.contains("2 to 4"),
        "{refused}"
    );
    let dry = run(
        &host,
        create(&["--journal-disks", &first, &second, "--dry-run"]),
    );
    dry.ok().says(&["its journal on 2 more"]);
    run(&host, create(&["--journal-disks", &first, &second])).ok();
    host.volume("pg", "pool", "128MiB", &scratch.text("pg.sock"));
    let socket = scratch.join("pg.sock");
    let shown = host.ok(&["array", "show", "pool"]).stdout;
    assert!(shown.contains("2 disks"), "{shown}");
    let list: DiskList = host.json(&["disk", "list"]);
    let roles = list.disks.iter().filter(|d| d.role.as_str() == "journal");
    assert_eq!(roles.count(), 2);

    // A journal disk is pulled under load: the ring moves, nobody notices.
    let writers = Ledger::new(71, LOADED_BYTES).write(&socket, "pg");
    writers.progress(300);
    pulled.pull();
    writers.progress(600);
    host.kill();
    let mut ledger = writers.finish();
    host.up();
    ledger.verify(&socket, "pg");
    let array = host.array("pool");
    assert_eq!(array.state, ArrayState::Clean, "{array:#?}");
    assert!(array.journal.is_some_and(|journal| journal.on_members));
    assert_eq!(
        state_of(&array, &second),
        Some(MemberState::Failed),
        "{array:#?}"
    );
    let page: EventPage = host.json(&["events", "-n", "1000"]);
    for kind in ["Fail", "JournalOnMembers"] {
        assert!(page.events.iter().any(|event| event.kind == kind), "{kind}");
    }
    assert!(has_health(&host, HealthCode::JournalDiskFailed));
    assert!(has_health(&host, HealthCode::JournalOnMembers));
    let shown = host.ok(&["array", "show", "pool"]).stdout;
    assert!(
        shown.contains("on members (1 of 2 journal disks left)"),
        "{shown}"
    );

    // Another takes its place under load; then the first is replaced while in service, and removed.
    let writers = ledger.write(&socket, "pg");
    writers.progress(200);
    host.ok(&["disk", "replace", &second, &new]);
    writers.progress(300);
    let array = host.array("pool");
    assert!(
        array.journal.is_some_and(|journal| !journal.on_members),
        "{array:#?}"
    );
    assert_eq!(state_of(&array, &new), Some(MemberState::Journal));
    assert!(!has_health(&host, HealthCode::JournalDiskFailed));
    host.ok(&["disk", "fail", &first]);
    writers.progress(200);
    host.wait_array("pool", "drained", drained);
    host.ok(&["disk", "replace", &first, &first, "--wipe"]);
    writers.progress(200);
    host.kill();
    let mut ledger = writers.finish();
    host.up();
    ledger.verify(&socket, "pg");
    let array = host.array("pool");
    let journal = array.journal.unwrap_or_else(|| panic!("{array:#?}"));
    assert_eq!(
        (journal.disks, journal.on_members),
        (2, false),
        "{array:#?}"
    );

    // Stopped, assembled and destroyed with them.
    host.ok(&["array", "stop", "pool", "--yes"]);
    host.ok(&["array", "assemble", "pool"]);
    ledger.verify(&socket, "pg");
    host.ok(&["volume", "unexport", "pg"]);
    host.ok(&["volume", "delete", "pg", "--yes"]);
    host.ok(&["array", "destroy", "pool", "--yes"]);
    let list: DiskList = host.json(&["disk", "list"]);
    assert!(list.disks.iter().all(|disk| disk.array.is_none()));
}
