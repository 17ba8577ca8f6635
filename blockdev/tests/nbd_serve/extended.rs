//! Extended headers, several contexts, and what only they make possible.

use std::cell::Cell;
use std::rc::Rc;

use cairn_blockdev::export::nbd::NbdError;
use cairn_blockdev::export::nbd::proto::{cmd, cmd_flag, flag, opt, rep};
use cairn_blockdev::export::nbd::request::Request;
use cairn_blockdev::units::u64_of;

use crate::client::{Client, contexts, info, u32_at, u64_at};
use crate::world::{SIZE, World};

const BOTH: [&str; 2] = ["base:allocation", "qemu:allocation-depth"];

/// A client in transmission on `pg`, with extended headers and both contexts.
async fn extended(world: &World) -> Client {
    let mut client = world.client().await;
    client.agree_on_extended_headers().await;
    assert_eq!(client.choose("pg", &BOTH).await, [1, 2]);
    client.go("pg").await;
    client
}

/// Lengths and flags of a BLOCK_STATUS_EXT chunk's runs, and its context.
fn runs(payload: &[u8]) -> (u32, Vec<(u64, u64)>) {
    let runs: Vec<_> = payload[8..]
        .chunks(16)
        .map(|run| (u64_at(run, 0), u64_at(run, 8)))
        .collect();
    assert_eq!(u64::from(u32_at(payload, 4)), u64_of(runs.len()));
    (u32_at(payload, 0), runs)
}

#[test]
fn what_is_written_is_read_with_extended_headers() {
    let world = World::new(1);
    world.sim.block_on(async {
        let mut client = extended(&world).await;
        let data: Vec<u8> = (0..=250).cycle().take(8192).collect();
        client.write(512, &data).await;
        assert_eq!(client.read(512, 8192).await, data);
        assert_eq!(client.errno((cmd::FLUSH, 0), 0, 0).await, 0);
        assert_eq!(client.errno((cmd::READ, 0), SIZE, 512).await, 22);
        assert_eq!(client.read(512, 0).await, []);
        let disconnect = client.request((cmd::DISC, 0), 0, 0, &[]).await;
        assert!(client.rest().await.is_empty(), "{disconnect}");
        world.end().await.unwrap();
    });
}

#[test]
fn a_status_of_terabytes_leaves_others_their_turn() {
    let world = World::sized(1, 4 << 40);
    world.sim.block_on(async {
        let mut client = extended(&world).await;
        let turns = Rc::new(Cell::new(0));
        let counted = Rc::clone(&turns);
        world.env.spawn.spawn(Box::pin(async move {
            loop {
                counted.set(counted.get() + 1);
                tokio::task::yield_now().await;
            }
        }));
        client
            .request((cmd::BLOCK_STATUS, 0), 0, 4 << 40, &[])
            .await;
        let before = turns.get();
        let chunks = client.status_chunks().await;
        assert_eq!(runs(&chunks[0]), (1, vec![(4 << 40, 3)]));
        let turns = turns.get() - before;
        assert!(turns > 1000, "{turns} turns during 4096 windows");
    });
}

#[test]
fn lengths_beyond_32_bits_are_taken_where_they_need_no_payload() {
    let size = 6 << 40;
    let world = World::sized(1, size);
    world.sim.block_on(async {
        let mut client = extended(&world).await;
        client.write(5 << 30, &[1; 4096]).await;
        client
            .request((cmd::BLOCK_STATUS, 0), 0, 3 << 40, &[])
            .await;
        let chunks = client.status_chunks().await;
        let rest = (3 << 40) - (5 << 30) - 4096;
        assert_eq!(
            runs(&chunks[0]),
            (1, vec![(5 << 30, 3), (4096, 0), (rest, 3)])
        );
        assert_eq!(
            runs(&chunks[1]),
            (2, vec![(5 << 30, 0), (4096, 1), (rest, 0)])
        );
        for (kind, flags) in [
            (cmd::WRITE_ZEROES, cmd_flag::FAST_ZERO | cmd_flag::FUA),
            (cmd::WRITE_ZEROES, cmd_flag::FUA),
            (cmd::TRIM, 0),
            (cmd::CACHE, 0),
        ] {
            client.write(5 << 30, &[1; 4096]).await;
            assert_eq!(client.errno((kind, flags), 0, size).await, 0, "{kind}");
            if kind != cmd::CACHE {
                assert_eq!(client.read(5 << 30, 4096).await, [0; 4096], "{kind}");
            }
        }
        // An answer may end before the request does: here after 4 TiB.
        client.request((cmd::BLOCK_STATUS, 0), 0, size, &[]).await;
        let chunks = client.status_chunks().await;
        let (_, runs) = runs(&chunks[0]);
        assert_eq!(runs.iter().map(|run| run.0).sum::<u64>(), 4 << 40);
        for len in [size + 512, u64::MAX - 511] {
            assert_eq!(client.errno((cmd::TRIM, 0), 512, len).await, 22);
            assert_eq!(client.errno((cmd::READ, 0), 0, len).await, 22);
            assert_eq!(client.errno((cmd::READ, cmd_flag::DF), 0, len).await, 75);
        }
    });
}

#[test]
fn a_block_status_can_name_its_contexts_in_a_payload() {
    let world = World::new(1);
    world.sim.block_on(async {
        let mut client = extended(&world).await;
        let payload = |len: u64, ids: &[u32]| {
            let mut bytes = len.to_be_bytes().to_vec();
            bytes.extend(ids.iter().flat_map(|id| id.to_be_bytes()));
            bytes
        };
        let command = (cmd::BLOCK_STATUS, cmd_flag::PAYLOAD_LEN);
        for ids in [&[2][..], &[1], &[2, 1]] {
            let bytes = payload(8192, ids);
            client
                .request(command, 4096, u64_of(bytes.len()), &bytes)
                .await;
            let chunks = client.status_chunks().await;
            let mut asked = ids.to_vec();
            asked.sort_unstable();
            let given: Vec<_> = chunks.iter().map(|chunk| runs(chunk).0).collect();
            assert_eq!(given, asked);
            assert_eq!(u64_at(&chunks[0], 8), 8192);
        }
        // What is wrong is read to its end and refused, and the connection goes on.
        for bytes in [
            payload(8192, &[]),
            payload(8192, &[3]),
            payload(8192, &[1, 1]),
            payload(8192, &[1, 2, 1]),
            payload(8192, &[1; 4000]),
            payload(0, &[1]),
            payload(SIZE, &[1]),
            vec![0; 13],
            vec![0; 3],
        ] {
            let len = u64_of(bytes.len());
            let reply = client.call(command, 4096, len, &bytes).await;
            assert_eq!(reply.errno, 22, "{len} bytes");
        }
        let reply = client
            .call((cmd::TRIM, cmd_flag::PAYLOAD_LEN), 0, 512, &[7; 512])
            .await;
        assert_eq!(reply.errno, 22, "no other command has a payload");
        client.write(0, &[1; 512]).await;
    });
}

#[test]
fn fast_zeroes_are_done_or_refused_untouched() {
    let world = World::new(1);
    world.sim.block_on(async {
        let mut client = world.transmitting().await;
        client.write(0, &[1; 8192]).await;
        let fast = (cmd::WRITE_ZEROES, cmd_flag::FAST_ZERO);
        assert_eq!(client.errno(fast, 512, 512).await, 95);
        assert_eq!(client.read(0, 4096).await, [1; 4096]);
        assert_eq!(client.errno(fast, 0, 4096).await, 0);
        assert_eq!(client.read(0, 4096).await, [0; 4096]);
        // Without the flag it is done however long it takes.
        let slow = (cmd::WRITE_ZEROES, cmd_flag::NO_HOLE);
        assert_eq!(client.errno(slow, 4608, 512).await, 0);
        assert_eq!(client.read(4608, 512).await, [0; 512]);
    });
}

#[test]
fn extended_headers_take_precedence_and_want_go() {
    let world = World::new(1);
    world.sim.block_on(async {
        let mut client = world.client().await;
        assert_eq!(client.answer(opt::STRUCTURED_REPLY, &[]).await, rep::ACK);
        assert_eq!(
            client.answer(opt::EXTENDED_HEADERS, b"x").await,
            rep::ERR_INVALID
        );
        client.agree_on_extended_headers().await;
        client.agree_on_extended_headers().await;
        let again = client.answer(opt::STRUCTURED_REPLY, &[]).await;
        assert_eq!(again, rep::ERR_EXT_HEADER_REQD);
        client.option(opt::EXPORT_NAME, b"pg").await;
        assert!(client.rest().await.is_empty());
        let end = world.end().await;
        assert!(matches!(end, Err(NbdError::ExportNameExtended)));
    });
}

#[test]
fn flags_say_what_was_agreed_on() {
    let world = World::new(1);
    world.sim.block_on(async {
        let mut client = world.client().await;
        let flags = async |client: &mut Client, name| {
            let replies = client.ask(opt::INFO, &info(name, &[])).await;
            u16::from_be_bytes([replies[0].1[10], replies[0].1[11]])
        };
        let optional = flag::SEND_DF | flag::SEND_FAST_ZERO | flag::BLOCK_STATUS_PAYLOAD;
        let zeroes = flag::SEND_FAST_ZERO;
        assert_eq!(flags(&mut client, "pg").await & optional, zeroes);
        assert_eq!(flags(&mut client, "ro").await & optional, 0);
        client.agree_on_extended_headers().await;
        assert_eq!(
            flags(&mut client, "pg").await & optional,
            zeroes | flag::SEND_DF
        );
        client.choose("pg", &BOTH).await;
        assert_eq!(flags(&mut client, "pg").await & optional, optional);
        // Chosen for another export.
        assert_eq!(flags(&mut client, "ro").await & optional, flag::SEND_DF);
        // A choice of nothing is a choice.
        assert!(client.choose("pg", &[]).await.is_empty());
        assert_eq!(
            flags(&mut client, "pg").await & optional,
            zeroes | flag::SEND_DF
        );
        let listed = client
            .ask(opt::LIST_META_CONTEXT, &contexts("pg", &["qemu:"]))
            .await;
        assert_eq!(listed[0].1, b"\0\0\0\0qemu:allocation-depth");
    });
}

#[test]
fn a_compact_request_among_extended_ones_closes() {
    let world = World::new(1);
    world.sim.block_on(async {
        let mut client = extended(&world).await;
        client.send(&[0x25, 0x60, 0x95, 0x13].repeat(8)).await;
        assert!(client.rest().await.is_empty());
        let end = world.end().await;
        assert!(matches!(end, Err(NbdError::RequestMagic(0x2560_9513))));
    });
}

#[test]
fn a_write_that_does_not_say_that_it_has_a_payload_is_a_write() {
    let world = World::new(1);
    world.sim.block_on(async {
        let mut client = extended(&world).await;
        let request = Request {
            flags: 0,
            kind: cmd::WRITE,
            cookie: 7,
            offset: 512,
            len: 512,
        };
        // As qemu's client sends it.
        client.send(&request.encode_extended()).await;
        client.send(&[3; 512]).await;
        assert_eq!(client.reply().await.errno, 0);
        assert_eq!(client.read(512, 512).await, [3; 512]);
    });
}

#[test]
fn an_absurd_payload_closes() {
    let world = World::new(1);
    world.sim.block_on(async {
        let mut client = extended(&world).await;
        client.request((cmd::WRITE, 0), 0, 1 << 60, &[1; 512]).await;
        assert!(client.rest().await.is_empty());
        let end = world.end().await;
        assert!(matches!(end, Err(NbdError::PayloadTooLarge { len }) if len == 1 << 60));
    });
}
