//! Requests that are carried out.

use std::collections::BTreeMap;

use cairn_blockdev::export::nbd::proto::{cmd, cmd_flag, opt};
use cairn_blockdev::sim::Fault;
use cairn_blockdev::units::u64_of;

use crate::client::u32_at;
use crate::world::{SIZE, World};

const MIB_BYTES: usize = 1 << 20;

#[test]
fn what_is_written_is_read() {
    let world = World::new(1);
    world.sim.block_on(async {
        let mut client = world.transmitting().await;
        let data: Vec<u8> = (0..=250).cycle().take(MIB_BYTES + 512).collect();
        client.write(512, &data).await;
        assert_eq!(client.read(512, u64_of(data.len())).await, data);
        assert_eq!(client.read(1024, 512).await, data[512..1024]);
        assert!(client.read(0, 512).await.iter().all(|&byte| byte == 0));
    });
}

#[test]
fn the_largest_payload_goes_through_both_ways() {
    let world = World::new(1);
    world.sim.block_on(async {
        let mut client = world.transmitting().await;
        let data = vec![0x5A; 32 << 20];
        client.write(0, &data).await;
        assert_eq!(client.read(0, u64_of(data.len())).await, data);
    });
}

#[test]
fn simple_replies_carry_data_too() {
    let world = World::new(1);
    world.sim.block_on(async {
        let mut client = world.client().await;
        client.go("pg").await;
        client.write(4096, &[9; 1024]).await;
        let reply = client.call((cmd::READ, 0), 4096, 1024, &[]).await;
        assert_eq!(reply.errno, 0);
        assert_eq!(client.bytes(1024).await, [9; 1024]);
    });
}

#[test]
fn trim_and_zeroes_show_in_the_block_status() {
    let world = World::new(1);
    world.sim.block_on(async {
        let mut client = world.transmitting().await;
        client.write(0, &vec![1; MIB_BYTES]).await;
        let calls = [
            (cmd::TRIM, 0, 65536),
            (cmd::WRITE_ZEROES, 0, 131_072),
            (cmd::WRITE_ZEROES, cmd_flag::NO_HOLE, 196_608),
            (cmd::CACHE, 0, 0),
        ];
        for (kind, flags, offset) in calls {
            assert_eq!(client.errno((kind, flags), offset, 65536).await, 0);
        }
        let status = client
            .call((cmd::BLOCK_STATUS, 0), 0, 2 << 20, &[])
            .await
            .data;
        let runs: Vec<_> = status
            .chunks(8)
            .map(|run| (u32_at(run, 0), u32_at(run, 4)))
            .collect();
        let expected = [(65536, 0), (131_072, 3), (851_968, 0), (1 << 20, 3)];
        assert_eq!(runs, expected);
        let one = client
            .call((cmd::BLOCK_STATUS, cmd_flag::REQ_ONE), 0, 2 << 20, &[])
            .await;
        assert_eq!(one.data, status[..8]);
        let zeros = client.read(65536, 196_608).await;
        assert!(zeros.iter().all(|&byte| byte == 0));
    });
}

#[test]
fn empty_requests_are_answered() {
    let world = World::new(1);
    world.sim.block_on(async {
        let mut client = world.transmitting().await;
        for kind in [
            cmd::READ,
            cmd::WRITE,
            cmd::TRIM,
            cmd::WRITE_ZEROES,
            cmd::CACHE,
        ] {
            let reply = client.call((kind, 0), 512, 0, &[]).await;
            assert_eq!((reply.errno, reply.data.len()), (0, 0), "command {kind}");
        }
    });
}

#[test]
fn a_flush_or_fua_survives_a_power_cut() {
    let (world, disk) = World::with_disk(3, 1 << 20);
    world.sim.block_on(async {
        let mut client = world.transmitting().await;
        let mut other = world.transmitting().await;
        client.write(0, &[1; 4096]).await;
        // On another connection: that is what multi-conn promises.
        assert_eq!(other.errno((cmd::FLUSH, 0), 0, 0).await, 0);
        let fua = (cmd::WRITE, cmd_flag::FUA);
        let reply = client.call(fua, 4096, 4096, &[2; 4096]).await;
        assert_eq!(reply.errno, 0);
        let fua = (cmd::WRITE_ZEROES, cmd_flag::FUA);
        assert_eq!(client.errno(fua, 0, 512).await, 0);
    });
    disk.power_cut();
    assert_eq!(disk.peek(0, 512), [0; 512]);
    assert_eq!(disk.peek(512, 3584), [1; 3584]);
    assert_eq!(disk.peek(4096, 4096), [2; 4096]);
}

#[test]
fn many_in_flight_are_answered_in_order_of_completion() {
    let mut overtaken = false;
    for seed in 0..10 {
        let (world, _disk) = World::with_disk(seed, 64 << 20);
        overtaken |= world.sim.block_on(async {
            let mut client = world.transmitting().await;
            for n in 0..100u8 {
                client
                    .request((cmd::WRITE, 0), u64::from(n) * 4096, 4096, &[n; 4096])
                    .await;
            }
            let mut order = Vec::new();
            for _ in 0..100 {
                let reply = client.reply().await;
                assert_eq!(reply.errno, 0);
                order.push(reply.cookie);
            }
            let mut cookies = BTreeMap::new();
            for n in 0..100u8 {
                let cookie = client
                    .request((cmd::READ, 0), u64::from(n) * 4096, 4096, &[])
                    .await;
                cookies.insert(cookie, n);
            }
            while !cookies.is_empty() {
                let reply = client.reply().await;
                let n = cookies.remove(&reply.cookie).unwrap();
                assert_eq!(reply.data, [n; 4096]);
            }
            !order.is_sorted()
        });
    }
    assert!(overtaken, "requests were carried out one after another");
}

#[test]
fn a_read_error_is_told_and_the_connection_lives_on() {
    let (world, disk) = World::with_disk(1, 1 << 20);
    disk.inject(Fault::BadRange {
        offset: 8192,
        len: 512,
    });
    world.sim.block_on(async {
        let mut client = world.transmitting().await;
        let reply = client.call((cmd::READ, 0), 8192, 4096, &[]).await;
        assert_eq!(reply.errno, 5);
        let message = String::from_utf8(reply.data).unwrap();
        assert_eq!(message, "4096 bytes at offset 8192: medium error");
        assert_eq!(client.read(0, 4096).await, [0; 4096]);

        let mut simple = world.client().await;
        simple.go("pg").await;
        assert_eq!(simple.errno((cmd::READ, 0), 8192, 4096).await, 5);
        // No data follows a failed read: the next reply is in its place.
        simple.write(8192, &[1; 4096]).await;
    });
}

#[test]
fn requests_beyond_the_budget_are_carried_out_one_by_one() {
    let (world, _disk) = World::with_disk(1, 4096);
    world.sim.block_on(async {
        let reads = async || {
            let mut client = world.transmitting().await;
            for _ in 0..8 {
                client.request((cmd::READ, 0), 0, 1 << 20, &[]).await;
            }
            for _ in 0..8 {
                assert_eq!(client.reply().await.data.len(), 1 << 20);
            }
        };
        tokio::join!(reads(), reads());
    });
}

#[test]
fn disconnect_answers_what_came_before_it() {
    let (world, _disk) = World::with_disk(1, 1 << 20);
    world.sim.block_on(async {
        let mut client = world.transmitting().await;
        for n in 0..20 {
            client.request((cmd::READ, 0), n * 512, 512, &[]).await;
        }
        client.request((cmd::DISC, 0), 0, 0, &[]).await;
        for _ in 0..20 {
            assert_eq!(client.reply().await.errno, 0);
        }
        assert!(client.rest().await.is_empty());
        world.end().await.unwrap();
    });
}

#[test]
fn the_export_of_a_connection_is_counted() {
    let world = World::new(1);
    world.sim.block_on(async {
        let mut client = world.client().await;
        assert_eq!(client.answer(opt::LIST, &[]).await, 1);
        assert_eq!((world.listener.count(), world.export.count()), (1, 0));
        client.go("pg").await;
        client.write(SIZE - 512, &[1; 512]).await;
        assert_eq!((world.listener.count(), world.export.count()), (1, 1));
        drop(client);
        world.export.drained().await;
        world.listener.drained().await;
    });
}

#[test]
fn a_connection_counts_once_where_listener_and_export_share_a_set() {
    let mut world = World::new(1);
    world.listener = world.export.clone();
    world.sim.block_on(async {
        let client = world.transmitting().await;
        assert_eq!(world.export.count(), 1);
        drop(client);
        world.export.drained().await;
    });
}
