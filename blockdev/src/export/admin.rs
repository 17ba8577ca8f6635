//! Whether this process may have the kernel make block devices.

/// Whether CAP_SYS_ADMIN is effective here; `None` if that can't be told. In a user namespace it may seem so: then
/// the kernel says no to what is tried.
pub(super) fn is_admin() -> Option<bool> {
    of_status(&std::fs::read_to_string("/proc/self/status").ok()?)
}

/// By what /proc/PID/status says.
fn of_status(status: &str) -> Option<bool> {
    const CAP_SYS_ADMIN: u32 = 21;
    let effective = status.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
    let effective = u64::from_str_radix(effective.trim(), 16).ok()?;
    Some(effective & (1 << CAP_SYS_ADMIN) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_is_told_by_the_effective_capabilities() {
        let status =
            |caps: &str| format!("Name:\tcairnd\nCapPrm:\t000001ffffffffff\nCapEff:\t{caps}\n");
        assert_eq!(of_status(&status("000001ffffffffff")), Some(true));
        assert_eq!(of_status(&status("000001ffffdfffff")), Some(false));
        assert_eq!(of_status(&status("")), None);
    }
}
