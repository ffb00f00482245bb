/** `DNNL_ARG_…` */
export const SRC = 1;
export const DST = 17;
export const WEIGHTS = 33;
export const MEAN = 49;
export const VARIANCE = 50;
export const SCALE = 51;
export const WORKSPACE = 64;
export const DIFF_SRC = 129;
export const DIFF_DST = 145;
export const DIFF_WEIGHTS = 161;
export const DIFF_SCALE = 255;
export const DIFF_SHIFT = 256;

/** `DNNL_ARG_ATTR_MULTIPLE_POST_OP(i) | DNNL_ARG_SRC_1` */
export const postOperand = (i: number): number => (32768 * (i + 1)) | SRC_1;
export const SRC_1 = 2;
