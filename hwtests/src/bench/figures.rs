//! Small arithmetic over measured values.

/// A count as a measured value. Exact up to 2^53, and nothing here counts further.
pub fn float(value: u64) -> f64 {
    let low = u32::try_from(value & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    let high = u32::try_from(value >> 32).unwrap_or(u32::MAX);
    f64::from(high) * 4_294_967_296.0 + f64::from(low)
}

/// The middle of the values, or of the two in the middle; 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = sorted.get(middle).copied().unwrap_or(0.0);
    match middle.checked_sub(1).and_then(|lower| sorted.get(lower)) {
        Some(lower) if sorted.len().is_multiple_of(2) => f64::midpoint(*lower, upper),
        _ => upper,
    }
}

/// The value below which so many of 1000 lie; 0 of none.
pub fn per_mille(sorted: &[u64], share: usize) -> u64 {
    let at = sorted.len().saturating_sub(1) * share / 1000;
    sorted.get(at).copied().unwrap_or(0)
}

/// `part / whole`; 0 of nothing.
pub fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

/// A shuffled `0..count`, the same for the same seed.
pub fn shuffled(count: u64, seed: u64) -> Vec<u64> {
    let mut rng = cairn_blockdev::sim::Rng::new(seed);
    let mut order: Vec<u64> = (0..count).collect();
    for last in (1..order.len()).rev() {
        let bound = cairn_blockdev::units::u64_of(last) + 1;
        order.swap(last, cairn_blockdev::units::usize_of(rng.below(bound)));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let close = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(close(median(&[3.0, 1.0, 2.0]), 2.0));
        assert!(close(median(&[4.0, 1.0, 2.0, 3.0]), 2.5));
        assert!(close(median(&[]), 0.0) && close(median(&[7.0]), 7.0));
        assert!(close(float((5 << 32) + 3), 21_474_836_483.0));
    }

    #[test]
    fn a_shuffle_has_everything_once() {
        let mut order = shuffled(1000, 7);
        assert_ne!(order, (0..1000).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..1000).collect::<Vec<_>>());
    }
}
