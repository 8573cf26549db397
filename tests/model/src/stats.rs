//! What a history exercised. A statistic that stays zero means a rule that was never tried.

macro_rules! statistics {
    ($($name:ident)*) => {
        /// Counters of one history, or summed over several.
        #[derive(Default, Clone, Debug, PartialEq, Eq)]
        pub struct Stats {
            $(pub $name: u64,)*
        }

        impl Stats {
            /// Every counter with its name.
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name)),*]
            }

            /// Adds another history's; `maxcount` is the largest of both.
            pub fn add(&mut self, other: &Stats) {
                let largest = self.maxcount.max(other.maxcount);
                $(self.$name += other.$name;)*
                self.maxcount = largest;
            }
        }
    };
}

statistics! {
    ops writes clones fclones reflinks renames xrenames links crashes replayed freezes deltas fastfree rfreeblk
    splits merges newnodes cow_shared dec_on_freed cleaned leakblk marked quiesce multi_leaf_ext hist_roots
    checks selfclone drops orphans maxcount inplace_payload mem_shared_copy lowered totals_checked
    inner_link_clones links_copied converted_back adopts snaps retention snap_drops snap_clones tmpfiles
    orphan_links orphans_recovered dir_to_realm snap_probes flag_nodes snap_flag_stale lowered_links embeds
}
