//! The trace of an outgoing call: a hop below the call being served, or a new root.

use formic_core::Metadata;
use formic_rpc::TraceContext;
use formic_rpc::trace::TRACEPARENT;

/// The place of a call in its trace. A header that the caller put there by hand counts where nothing is
/// inherited.
pub(crate) fn next(inherited: Option<TraceContext>, metadata: &Metadata) -> TraceContext {
    let by_hand = || if metadata.is_empty() { None } else { metadata.get(TRACEPARENT)?.parse().ok() };
    match inherited.or_else(by_hand) {
        Some(parent) => parent.child(fastrand::u64(1..)),
        None => TraceContext { trace_id: fastrand::u128(1..), span_id: fastrand::u64(1..), sampled: false },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hop_keeps_the_trace_and_a_root_starts_one() {
        let none = Metadata::new();
        let root = next(None, &none);
        assert!(root.trace_id != 0 && root.span_id != 0);
        let child = next(Some(root), &none);
        assert_eq!(child.trace_id, root.trace_id);
        assert_ne!(child.span_id, root.span_id);
        assert_ne!(next(None, &none).trace_id, root.trace_id);
    }

    #[test]
    fn a_header_by_hand_is_the_parent_where_none_is_inherited() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let mut metadata = Metadata::new();
        metadata.insert(TRACEPARENT, text).expect("valid");
        let by_hand = next(None, &metadata);
        assert_eq!(by_hand.trace_id, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert!(by_hand.sampled);
        let inherited = TraceContext { trace_id: 7, span_id: 7, sampled: false };
        assert_eq!(next(Some(inherited), &metadata).trace_id, 7);
    }
}
