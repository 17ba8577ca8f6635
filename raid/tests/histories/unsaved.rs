//! Volumes that come or grow: nobody writes to what a power cut would take back.

use std::cell::Cell;
use std::rc::Rc;

use cairn_blockdev::{Buf, WriteFlags};
use cairn_raid::Level;

use crate::lab::{BLOCK, Lab, shape};
use crate::model::Crash;

/// A disk gives no answer to flushes while `change` is under way.
fn while_a_disk_flushes(lab: &Lab, change: impl Future<Output = ()> + 'static) -> Rc<Cell<bool>> {
    lab.world.disks[2].hold_flushes();
    let done = Rc::new(Cell::new(false));
    let ended = Rc::clone(&done);
    lab.world.env.spawn.spawn(Box::pin(async move {
        change.await;
        ended.set(true);
    }));
    lab.world.sleep(3_000);
    assert!(!done.get(), "it waits for the flush");
    done
}

#[test]
fn a_volume_that_grows_has_its_old_size_until_the_new_one_is_durable() {
    let mut lab = Lab::new(71, shape(Level::Raid6, 5, true));
    let (old, new) = (lab.volume.geometry().size, 4 * lab.volume.geometry().size);
    let array = Rc::clone(&lab.array);
    let done = while_a_disk_flushes(&lab, async move {
        array.resize_volume("v", new).await.unwrap();
    });
    let write = || {
        let data = Buf::copy_of(&[0x66; 4096]).freeze();
        let volume = lab.array.open_volume("v").unwrap();
        lab.world
            .run(volume.write(old + BLOCK, data, WriteFlags { fua: true }))
    };
    assert_eq!(lab.volume.geometry().size, old);
    assert_eq!(lab.array.volume("v").unwrap().size_bytes, old);
    assert_eq!(lab.array.volumes()[0].size_bytes, old);
    assert!(write().is_err(), "beyond its end");
    lab.world.disks[2].release();
    lab.world.run_till("grown", || done.get());
    assert_eq!(lab.array.volume("v").unwrap().size_bytes, new);
    write().unwrap();
    lab.world.crash(Crash::Power);
    lab.reopen();
    assert_eq!(lab.volume.geometry().size, new);
    assert_eq!(lab.read(old + BLOCK, BLOCK).unwrap(), [0x66; 4096]);
}

#[test]
fn a_volume_that_is_made_is_there_when_that_is_durable() {
    let mut lab = Lab::new(73, shape(Level::Raid6, 5, true));
    let array = Rc::clone(&lab.array);
    let done = while_a_disk_flushes(&lab, async move {
        array.create_volume("w", 1 << 20).await.unwrap();
    });
    assert!(lab.array.open_volume("w").is_err());
    assert_eq!(lab.array.volumes().len(), 1);
    // Its name is taken all the same.
    let again = lab.world.run(lab.array.create_volume("w", 1 << 20));
    assert!(again.unwrap_err().to_string().contains("exists"));
    lab.world.disks[2].release();
    lab.world.run_till("made", || done.get());
    assert!(lab.array.open_volume("w").is_ok());
    lab.world.crash(Crash::Power);
    lab.reopen();
    assert_eq!(lab.array.volumes().len(), 2);
}
