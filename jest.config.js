/** Tests run as ES modules through SWC; types are checked by `npm run typecheck`. */
export default {
  testEnvironment: "<rootDir>/test/environment.js",
  testMatch: ["<rootDir>/test/**/*.test.ts"],
  extensionsToTreatAsEsm: [".ts"],
  transform: { "^.+\\.ts$": "<rootDir>/test/transform.js" },
  maxWorkers: 2,
  testTimeout: 300_000,
};
