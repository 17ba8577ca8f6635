//! The reply of changing requests.

use cairn_api::Changed;

use crate::output::{Cell, View, fact};

/// What was changed, for programs; people read [`crate::confirm::lines`].
pub(crate) fn changed(changed: &Changed) -> View {
    let mut facts = vec![
        fact("dry_run", Cell::text(changed.dry_run.to_string())),
        fact("changed", Cell::text(changed.changed.to_string())),
        fact("summary", Cell::text(&changed.summary)),
        fact("warnings", Cell::text(changed.warnings.join("; "))),
        fact("needs_yes", Cell::text(changed.needs_yes.to_string())),
    ];
    if let Some(left) = changed.redundancy_left {
        facts.push(fact("redundancy_left", Cell::count(left)));
    }
    if let Some(array) = &changed.array {
        facts.push(fact("array", Cell::text(&array.name)));
        facts.push(fact("state", Cell::text(array.state.as_str())));
        facts.push(fact("size_bytes", Cell::bytes(array.size_bytes)));
    }
    if let Some(volume) = &changed.volume {
        facts.push(fact("volume", Cell::text(&volume.name)));
        facts.push(fact("volume_bytes", Cell::bytes(volume.size_bytes)));
        let uris: Vec<&str> = volume.exports.iter().map(|e| e.uri.as_str()).collect();
        facts.push(fact("uri", Cell::text(uris.join(" "))));
    }
    if let Some(disk) = &changed.disk {
        facts.push(fact("disk", Cell::text(&disk.path)));
    }
    View {
        facts,
        ..View::default()
    }
}
