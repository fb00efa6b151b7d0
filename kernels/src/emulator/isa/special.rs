//! Names of the special registers.

use super::Special;

/// The special register of that name; clocks, which change, are instructions of their own.
pub(super) fn special_register(name: &str) -> Option<Special> {
    let axis = |axis: &str| {
        Some(match axis {
            "x" => 0,
            "y" => 1,
            "z" => 2,
            _ => return None,
        })
    };
    Some(match name {
        "%laneid" => Special::LaneId,
        "%warpid" => Special::WarpId,
        "%nwarpid" => Special::NWarpId,
        "%lanemask_eq" => Special::LaneMaskEq,
        "%lanemask_le" => Special::LaneMaskLe,
        "%lanemask_lt" => Special::LaneMaskLt,
        "%lanemask_ge" => Special::LaneMaskGe,
        "%lanemask_gt" => Special::LaneMaskGt,
        "%dynamic_smem_size" => Special::DynamicSharedSize,
        "%total_smem_size" => Special::TotalSharedSize,
        "%smid" => Special::SmId,
        "%nsmid" => Special::NSmId,
        "%gridid" => Special::GridId,
        _ => match name.split_once('.')? {
            ("%tid", a) => Special::Tid(axis(a)?),
            ("%ntid", a) => Special::NTid(axis(a)?),
            ("%ctaid", a) => Special::CtaId(axis(a)?),
            ("%nctaid", a) => Special::NCtaId(axis(a)?),
            _ => return None,
        },
    })
}
