/** The alias hides the types of the package, which are those of onnxruntime-common of its own version. */
declare module "onnxruntime-training-web/training" {
  export interface TrainingTensor {
    readonly type: string;
    readonly dims: readonly number[];
    readonly data: Float32Array | BigInt64Array | Uint8Array;
  }
  export interface TrainingSession {
    readonly trainingInputNames: readonly string[];
    readonly trainingOutputNames: readonly string[];
    readonly evalInputNames: readonly string[];
    runTrainStep(feeds: Record<string, TrainingTensor>): Promise<Record<string, TrainingTensor>>;
    runEvalStep(feeds: Record<string, TrainingTensor>): Promise<Record<string, TrainingTensor>>;
    getParametersSize(trainableOnly?: boolean): Promise<number>;
    getContiguousParameters(trainableOnly?: boolean): Promise<TrainingTensor>;
    loadParametersBuffer(buffer: Uint8Array, trainableOnly?: boolean): Promise<void>;
    release(): Promise<void>;
  }
  export const TrainingSession: {
    create(files: {
      checkpointState: Uint8Array | string;
      trainModel: Uint8Array | string;
      evalModel?: Uint8Array | string;
      optimizerModel?: Uint8Array | string;
    }): Promise<TrainingSession>;
  };
  export const Tensor: new (
    type: string,
    data: Float32Array | BigInt64Array | Uint8Array,
    dims: readonly number[],
  ) => TrainingTensor;
  export const env: { wasm: { numThreads: number; wasmPaths?: string } };
}
