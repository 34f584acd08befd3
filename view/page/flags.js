// The flags of a prediction in words. docs/predict.md lists them, too; a test holds both together.
"use strict";

const FLAGS = {
  no_face: "No frame here shows a face, so faces did not count.",
  truncated_text: "There are more words than the model can take; the last ones did not count.",
  text_of_whole_file: "The words have no times, so this part was given the words of the whole file.",
  nothing_to_go_on: "There are neither words nor faces nor sound here, so there is no answer.",
  utterance_split: "This is a part of an utterance that is too long to be predicted at once.",
  outside_media: "The file ends before this part begins.",
  truncated_media: "The file ends abruptly: something is missing.",
  corrupt_media: "Something here could not be decoded and was skipped.",
  sound_gap: "The sound stops and goes on later.",
  transcript_covers_part: "The transcript covers less than half of the file; only what it covers is predicted.",
  hdr_video: "The video is HDR and was converted to normal brightness.",
  several_video_tracks: "The file has several video tracks; the default one was used.",
  several_audio_tracks: "The file has several audio tracks; the default one was used.",
  several_faces: "There are several faces here; the answer is about the one whose yellow box stands out.",
  speaker_unclear: "It is not clear who speaks here; the answer is about the largest face.",
  face_switched: "The face that was followed is not always the same person's.",
  silence: "The sound is silent, so it did not count.",
  noise: "The sound is steady noise, so it did not count.",
  clipped_sound: "The sound is overdriven: more than 1 % of it is at full scale.",
  small_face: "The faces are small: fewer pixels than the model takes.",
  dark_face: "The faces are dark.",
  out_of_domain: "The faces or the sound here are unlike what the model was trained on, so it gives no label.",
  untrained_model: "This model was never trained: its answers mean nothing.",
  synthetic_model: "This model learned from drawn faces and synthesised voices: its answers say nothing about people.",
  repaired_timestamps: "Times in the file were impossible and were replaced.",
  text_recognised: "The words were recognised from the sound; they may be wrong.",
  doubtful_words: "The speech recogniser is not sure of these words.",
  language_mismatch: "What is spoken is a language that the model does not know, so the words did not count.",
  language_unknown: "Somebody speaks, but the server's speech model cannot tell which language, so the words did not count.",
  recognition_failed: "The speech could not be recognised, so there are no words.",
};

const explain = (flag) => FLAGS[flag] ?? `${flag.replaceAll("_", " ")}.`;
