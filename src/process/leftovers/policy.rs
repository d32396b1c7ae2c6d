//! What happens to leftover processes: `--leftovers`.

use serde::{Deserialize, Serialize};

/// What bookend does with leftovers (`--leftovers`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LeftoversPolicy {
    /// Counts them after a success, and ends them otherwise.
    Auto,
    End,
    Leave,
}

impl LeftoversPolicy {
    /// Whether leftovers are ended after a run that was a `success` or not.
    pub fn ends(self, success: bool) -> bool {
        match self {
            LeftoversPolicy::Auto => !success,
            LeftoversPolicy::End => true,
            LeftoversPolicy::Leave => false,
        }
    }

    /// Whether processes with `BOOKEND_DETACHED` are spared.
    pub fn spares_detached(self) -> bool {
        self != LeftoversPolicy::End
    }
}
